"""A SLURM of one node that starts every job at once."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SLURM = {
    "sbatch": """#!/bin/sh
id=$$
cp "$1" "$SLURM_HOME/$id.sh"
SLURM_JOB_ID=$id SLURM_JOBID=$id SLURM_NTASKS=1 SLURM_NODEID=0 \
SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 SLURM_LOCALID=0 \
SLURM_JOB_NODELIST=localhost setsid sh "$1" > "$SLURM_HOME/$id.out" 2>&1 &
echo "Submitted batch job $id"
""",
    "srun": """#!/bin/sh
while [ "${1#-}" != "$1" ]; do
    case "$1" in --output|--error) shift;; esac
    shift
done
exec "$@"
""",
    "sacct": "#!/bin/sh\necho 'JobID|State|NodeList'\n",
    "scancel": '#!/bin/sh\necho "$@" >> "$SLURM_HOME/cancelled"\n',
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Put a tiny SLURM on the path; give its folder."""
    home = tmp_path / "slurm"
    home.mkdir()
    for name, script in SLURM.items():
        (home / name).write_text(script)
        (home / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return home
