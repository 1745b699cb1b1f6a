"""A trained classifier in service meets new classes, an example at a time, and goes on knowing the old ones.

The classes are the modules of Python's standard library, the examples the functions in them. A head is trained on most
of the modules; the others come later, when nothing is trained any more: ``add_classes`` makes room for one, and
``write`` stores its examples.
"""

import ast
import re
import sysconfig
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F

from firstsight import HebbianSoftmax

WIDTH, LEAST, NEW = 256, 30, 10


def functions():
    """The functions of each module that has enough of them, as text."""
    modules = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if not {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.parts):
            lines, tree = path.read_bytes().splitlines(), ast.walk(ast.parse(path.read_bytes()))
            found = [x for x in tree if isinstance(x, ast.FunctionDef) and x.end_lineno - x.lineno > 5]
            if len(found) >= LEAST:
                modules.append([b" ".join(lines[x.lineno - 1 : x.end_lineno]) for x in found])
    return modules


def vectors(texts):
    """Weighted words of each text, projected to unit vectors: what a frozen body would give."""
    words = [[zlib.crc32(word) % 2**14 for word in re.findall(rb"[A-Za-z]{2,}", text.lower())] for text in texts]
    counts = torch.stack([torch.bincount(torch.tensor(row), minlength=2**14) for row in words])
    rarity = torch.log(len(texts) / (1 + (counts > 0).sum(0)))
    return F.normalize(torch.log1p(counts) * rarity @ torch.randn(2**14, WIDTH), dim=1)


def main():
    torch.manual_seed(0)
    modules = functions()
    x = vectors([text for module in modules for text in module])
    sizes = torch.tensor([len(module) for module in modules])
    y = torch.arange(len(modules)).repeat_interleave(sizes)
    old, test = len(modules) - NEW, torch.rand(len(y)) < 0.25
    known = (y < old) & ~test

    head = HebbianSoftmax(WIDTH, old)  # firstsight
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    handle = head.attach(optimizer)  # firstsight
    for _ in range(12):
        for batch in known.nonzero()[:, 0][torch.randperm(int(known.sum()))].split(256):
            optimizer.zero_grad()
            head.loss(x[batch], y[batch]).backward()
            optimizer.step()
    handle.remove()

    def right(which):
        return float((head.topk(x[which], 1).indices[:, 0] == y[which]).float().mean())

    before = right(test & (y < old))
    print(f"{old} modules, {int(known.sum()):,} functions: {before:.1%} of {int(test.sum())} others are recognised")
    for examples in (1, 4, 16):
        for label in range(old, len(modules)):
            if label >= head.num_classes:
                head.add_classes(1)  # firstsight
            shown = ((y == label) & ~test).nonzero()[:, 0][examples // 4 : examples]
            head.write(x[shown], y[shown])  # firstsight
        new, after = right(test & (y >= old)), right(test & (y < old))
        print(f"{NEW} new ones, {examples} of each shown: {new:.1%} of theirs; of the old ones' {after:.1%}")
    assert new > 0.3, "the new ones are known"
    assert before - after < 0.04, "and the old ones too"


if __name__ == "__main__":
    main()
