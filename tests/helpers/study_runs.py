"""Made-up studies, and the arithmetic of their table by plain loops."""

import math
import random


def make_study(seeds=(0, 1, 2, 3, 4), lacking=(("other", 1), ("plain", 4)), diverged=("bad",)):
    """Random numbers; ``lacking`` are not done yet."""
    rng = random.Random(0)
    jobs = []
    for seed in seeds:
        for variant in ("plain", "other", "bad"):
            about = {"data": "song", "regime": "default", "variant": variant, "seed": seed, "git_commit": "abc"}
            state = "waiting" if (variant, seed) in lacking else "diverged" if variant in diverged else "done"
            job = {**about, "state": state, "tokens": 99, "perplexity": None, "bands": [], "sights": []}
            if state == "done":
                job["perplexity"] = rng.uniform(90, 110)
                job["bands"] = [{"name": name, "perplexity": rng.uniform(900, 1100)} for name in (">10K", "<100")]
                job["sights"] = [{"seen": k, "tokens": 5, "nll": rng.uniform(5, 9)} for k in (0, 1, 2, 4)]
            jobs.append(job)
    recipe = {"baseline": "plain", "seeds": list(seeds), "variants": {"plain": None, "other": {}, "bad": None}}
    return {"recipe": recipe, "git_commit": "abc", "machine": "m", "jobs": jobs}


def plain_differences(study, variant, value, percent):
    """Mean and sample deviation of the differences, by a loop over all pairs of jobs."""
    found = []
    for job in study["jobs"]:
        for base in study["jobs"]:
            alike = base["seed"] == job["seed"] and base["variant"] == "plain" and job["variant"] == variant
            if alike and job["state"] == base["state"] == "done":
                x, b = value(job), value(base)
                found.append((x - b) / b * 100 if percent else x - b)
    mean = sum(found) / len(found)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in found) / (len(found) - 1))
    return len(found), mean, deviation
