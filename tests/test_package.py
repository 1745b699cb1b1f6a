"""The package as a whole: every module imports, the core stays light, the recipes are sound."""

import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest
import torch

import firstsight
from firstsight.lab.lm.lstm import num_parameters
from firstsight.lab.lm.recipes import RECIPES, recipe
from firstsight.lab.lm.run import build_model

LIGHT = """
import sys, torch, numpy
before = set(sys.modules)
from firstsight import *
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(new - {"firstsight", "numpy", "torch"} - set(sys.stdlib_module_names)))
"""


def test_every_module_imports_and_says_what_it_is_for():
    for module in pkgutil.walk_packages(firstsight.__path__, "firstsight."):
        if module.name != "firstsight.__main__":
            assert import_module(module.name).__doc__, module.name


def test_public_names():
    assert all(hasattr(firstsight, name) for name in firstsight.__all__)


def test_the_core_imports_torch_and_numpy_only():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_extra_the_command_says_what_to_install():
    block = "import sys; sys.modules['tyro'] = None; from firstsight.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
    assert done.returncode == 2
    assert "the extra lab: pip install '.[lab]'" in done.stderr


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("head", ["softmax", "hebbian"])
def test_each_recipe_builds_its_model(name, head):
    with torch.device("meta"):
        model = build_model(267_735, recipe(name).replace(head=head))
    if name == "paper":
        assert num_parameters(model) == 171_691_520


def test_an_unknown_recipe_is_named():
    with pytest.raises(firstsight.InputError, match="recipe is 'large'; expected one of small, demo, paper"):
        recipe("large")
