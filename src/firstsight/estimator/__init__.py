"""The scikit-learn classifier that knows a class from its first example (extra ``sklearn``)."""

try:
    import safetensors  # noqa: F401
    import sklearn  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"firstsight.estimator needs {error.name}, which is not installed: pip install scikit-learn safetensors, or "
        "the package with its extra, firstsight[sklearn]."
    ) from error

from firstsight.estimator.classifier import FirstSightClassifier
from firstsight.estimator.indexed import LabelIndex
from firstsight.scaling import Scaling

__all__ = ["FirstSightClassifier", "LabelIndex", "Scaling"]
