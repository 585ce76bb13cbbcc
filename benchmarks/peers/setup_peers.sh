#!/bin/sh
# One virtual environment for each peer, with pip from the usual index: setup_peers.sh ENVS_FOLDER
# The peers' versions are those that were measured. torch is the range that eaves asks for.
# Another interpreter: PYTHON=python3.12 setup_peers.sh ENVS_FOLDER
set -eu

if [ $# -ne 1 ]; then
  echo "usage: $0 ENVS_FOLDER" >&2
  exit 2
fi
envs=$1
python=${PYTHON:-python3}

make_env() { # NAME REQUIREMENT...
  name=$1
  shift
  "$python" -m venv "$envs/$name"
  "$envs/$name/bin/python" -m pip install --quiet "torch>=2.6,<2.14" numpy "$@"
}

make_env torchslicer "torchslicer[grpc]==0.2.*"
make_env nvflare "nvflare==2.9.*"
