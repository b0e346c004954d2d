#!/bin/sh
# Compiles, checks and publishes this bundle on ${device} (compute capability ${capability}).
# Options of `edge build` may follow: sh finish.sh --out /srv/engines
bundle="$$(cd "$$(dirname "$$0")" && pwd)" || exit 2
python="$${PYTHON:-python3}"

if command -v sha256sum > /dev/null && ! (cd "$$bundle" && sha256sum -c SHA256SUMS > /dev/null); then
  echo "error: the bundle $$bundle is damaged" >&2
  echo "   do: copy it again from the machine that built it" >&2
  exit 4
fi
if "$$python" -c 'import edge.cli.build' 2> /dev/null; then
  exec "$$python" -m edge build --bundle "$$bundle" "$$@"
fi
if [ -f build_engines.py ]; then
  exec "$$python" build_engines.py --bundle "$$bundle" "$$@"
fi
echo "error: the package 'edge' is not installed for $$python" >&2
echo "   do: in the project's folder: pip install '.[gpu]', or run this from there" >&2
echo "       TensorRT ${tensorrt} or newer comes with JetPack on a Jetson; elsewhere: pip install tensorrt" >&2
exit 2
