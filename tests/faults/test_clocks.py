"""What is newer is what came later in training, whatever the clock said."""

import pytest
from outcomes import same

DAY = 86400


@pytest.mark.parametrize("days", [-3, 3])
@pytest.mark.parametrize("keep", ["last", "average"])
def test_clock_set_between_two_starts(
    run, unbroken, soak, tmp_path, days, keep
):
    if not soak and (days, keep) != (-3, "average"):
        pytest.skip("only by make soak")
    if keep != "average":
        overrides = {"keep": keep, "keep_best": 1}
        end = run(tmp_path / "whole", overrides)
        assert end.code == 0, end.log
        whole = tmp_path / "whole"
    else:
        overrides, whole = {}, unbroken.folder
    end = run(tmp_path / "run", overrides, kill_at=("CKPT.yaml", 3))
    assert end.code == -9
    end = run(tmp_path / "run", overrides, clock=days * DAY)
    assert end.code == 0, end.log
    same(tmp_path / "run", whole)
