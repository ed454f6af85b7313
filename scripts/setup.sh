# Sourced by run, test and check: makes .venv hold the package with what the caller needs.
# shellcheck shell=bash

# A Python that the package accepts and that can make virtual environments.
find_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
        >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  echo "imaging-node needs Python 3.11 or newer with the venv module (Debian: apt-get install" \
    "python3-venv); none of python3.13, python3.12, python3.11, python3 will do." >&2
  return 1
}

# What an installation depends on; differs as soon as it has to be made anew.
installation_digest() {
  "$1" -I -S - "$2" <<'PYTHON'
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
parts = [str(root).encode(), sys.version.encode()]
parts += [(root / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())
PYTHON
}

# is_set_up ROOT EXTRAS: the stamp fits, and names every extra that is asked for.
is_set_up() {
  local root=$1 wanted=$2 extra digest installed
  [ -x "$root/.venv/bin/python" ] && [ -f "$root/.venv/installed.stamp" ] || return 1
  { read -r digest && read -r installed; } <"$root/.venv/installed.stamp" || return 1
  [ "$digest" = "$(installation_digest "$root/.venv/bin/python" "$root" 2>/dev/null)" ] || return 1
  for extra in ${wanted//,/ }; do
    case ",$installed," in *",$extra,"*) ;; *) return 1 ;; esac
  done
}

# set_up EXTRAS: "" or "test,torch". Does nothing when that, or more, is already there.
set_up() {
  local root python wanted=$1 all=$1 digest installed
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  if is_set_up "$root" "$wanted"; then return; fi
  # Two set-ups at once: the second waits, then finds the work done. The lock is the folder's,
  # because .venv itself may be made anew.
  exec 9<"$root"
  if command -v flock >/dev/null 2>&1; then flock 9; fi
  if is_set_up "$root" "$wanted"; then
    exec 9<&-
    return
  fi
  echo "Setting up $root/.venv: some minutes the first time." >&2
  if ! "$root/.venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' \
    >/dev/null 2>&1; then
    python=$(find_python)
    "$python" -m venv --clear "$root/.venv" 9<&-
  fi
  # Extras of an earlier set-up stay: whoever wanted them wants them again.
  if { read -r digest && read -r installed; } 2>/dev/null <"$root/.venv/installed.stamp"; then
    all=$(printf '%s,%s' "$installed" "$wanted" | tr ',' '\n' | sed '/^$/d;/^-$/d' | sort -u | paste -sd, -)
  fi
  rm -f "$root/.venv/installed.stamp"
  "$root/.venv/bin/python" -m pip install -qq --disable-pip-version-check \
    -c "$root/constraints.txt" -e "$root${all:+[$all]}" 9<&-
  installation_digest "$root/.venv/bin/python" "$root" >"$root/.venv/installed.stamp.part"
  echo "${all:--}" >>"$root/.venv/installed.stamp.part"
  mv "$root/.venv/installed.stamp.part" "$root/.venv/installed.stamp"
  exec 9<&-
}
