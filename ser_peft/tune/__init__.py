"""Search of settings, judged by speakers who are not the test's."""

from ser_peft.tune.runner import tune
from ser_peft.tune.search import Search

__all__ = ["Search", "tune"]
