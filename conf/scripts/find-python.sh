#!/bin/sh
# Prints the first Python of version 3.11 or newer that can make an environment; says what is missing otherwise.
seen=""
for python in ${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14}; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        seen="$seen $python is $version;"
    elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        seen="$seen $python ($version) has no venv (on Debian: apt-get install python$version-venv);"
    else
        command -v "$python"
        exit 0
    fi
done
echo "sparkscore needs Python 3.11 or newer. Found:${seen:- no Python}" >&2
echo "Fix: install one, or say where it is: make PYTHON=/path/to/python3.11" >&2
exit 1
