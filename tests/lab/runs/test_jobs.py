"""What the processes of jobs call is there: it is named by a text, which no import checks."""

from importlib import import_module
from inspect import signature
from pkgutil import walk_packages

import firstsight.lab
from firstsight.lab.runs.jobs import WORKER, Job


def test_every_job_names_a_function_that_takes_what_it_is_told():
    for module in walk_packages(firstsight.lab.__path__, "firstsight.lab."):
        if module.name != WORKER:
            import_module(module.name)
    found = [cls.does for cls in Job.__subclasses__()]
    assert len(found) >= 2
    for name in found:
        module, function = name.split(":")
        assert len(signature(getattr(import_module(module), function)).parameters) == 1, name
    assert callable(import_module(WORKER).main)
