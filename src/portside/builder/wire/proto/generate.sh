#!/bin/sh
# Generate the Python modules of the messages from the .proto files of this directory.
# Needs grpcio-tools (pip install grpcio-tools); the modules are kept in the repository.
set -eu
cd "$(dirname "$0")/../../../.."
"${PYTHON:-python3}" -m grpc_tools.protoc --proto_path=. --python_out=. \
    portside/builder/wire/proto/*.proto
