#!/bin/bash
# Trains, resumes, pretrains and measures on a GPU, in one call of under ten
# minutes, from a machine that has Python and torch; writes one JSON.
#
#   bash benchmarks/gpu.sh [results.json]
#   SMOKE=1 bash benchmarks/gpu.sh      # tiny shapes, anywhere, without a GPU
#
# PYTHON=... chooses the interpreter. What the package needs and is not there
# is installed for it by pip; the torch that is there stays.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${1:-gpu.json}

lacks() { ! "$python" -c "import $1" 2>/dev/null; }

pip() { "$python" -m pip "$@" --quiet; }

if lacks "ser_peft.training, importlib.metadata as m; m.version('ser_peft')"; then
    torch=$("$python" -c "from importlib.metadata import version as v; print(v('torch'))")
    needs=$(mktemp)
    trap 'rm -f "$needs"*' EXIT
    "$python" - >"$needs" <<END
import ast

for node in ast.walk(ast.parse(open("setup.py").read())):
    if isinstance(node, ast.keyword) and node.arg == "install_requires":
        print(*ast.literal_eval(node.value), sep="\n")
END
    # torchaudio links against the torch of its own number.
    if lacks torchaudio && ! pip install --no-deps "torchaudio==${torch%%+*}"; then
        echo "no torchaudio goes with torch $torch: another pair is installed"
        pip install $(grep ^torch "$needs")
    fi
    grep -v ^torch "$needs" >"$needs.other"
    "$python" -c "
from importlib.metadata import version
print(*(f'{name}=={version(name)}' for name in ('torch', 'torchaudio')), sep='\n')
" >"$needs"
    pip install --constraint "$needs" --requirement "$needs.other"
    pip install --no-deps --editable .
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
exec "$python" benchmarks/gpu.py ${SMOKE:+--smoke} --out "$out"
