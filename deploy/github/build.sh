#!/usr/bin/env bash
# The step of action.yml: inputs from INPUT_… to options of asyncbuild, results to GITHUB_OUTPUT.
# Lists have a value a line; commas separate only where buildx has them so (tags, no-cache-filters).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

arguments=(build --metadata-file "$work/metadata.json" --iidfile "$work/iid")
given() { [ -n "${1//[[:space:]]/}" ]; }
lines() { # OPTION TEXT: each line that is not empty as a value of OPTION
  local line
  while IFS= read -r line; do
    line=${line%$'\r'}
    if given "$line"; then arguments+=("$1" "$line"); fi
  done <<<"$2"
}
one() { if given "$2"; then arguments+=("$1" "$2"); fi; }
words() { lines "$1" "${2//,/$'\n'}"; }

lines --add-host "${INPUT_ADD_HOSTS-}"
lines --allow "${INPUT_ALLOW-}"
lines --annotation "${INPUT_ANNOTATIONS-}"
lines --build-arg "${INPUT_BUILD_ARGS-}"
lines --cache-from "${INPUT_CACHE_FROM-}"
lines --cache-to "${INPUT_CACHE_TO-}"
lines --label "${INPUT_LABELS-}"
lines --output "${INPUT_OUTPUTS-}"
lines --ssh "${INPUT_SSH-}"
lines --ulimit "${INPUT_ULIMIT-}"
words --tag "${INPUT_TAGS-}"
words --no-cache-filter "${INPUT_NO_CACHE_FILTERS-}"
one --file "${INPUT_FILE-}"
one --network "${INPUT_NETWORK-}"
one --platform "${INPUT_PLATFORMS-}"
one --shm-size "${INPUT_SHM_SIZE-}"
one --target "${INPUT_TARGET-}"
if [ "${INPUT_NO_CACHE-}" = true ]; then arguments+=(--no-cache); fi
if [ "${INPUT_PULL-}" = true ]; then arguments+=(--pull); fi
if [ "${INPUT_PUSH-}" = true ]; then
  arguments+=(--push)
elif ! given "${INPUT_OUTPUTS-}"; then
  arguments+=(--output type=image) # built and kept, but not pushed
fi

number=0
secret() { # id=value lines; the value goes by a file, which no process list shows
  local line
  while IFS= read -r line; do
    if given "$line"; then
      number=$((number + 1))
      (umask 077 && printf '%s' "${line#*=}" >"$work/secret-$number")
      arguments+=(--secret "id=${line%%=*},src=$work/secret-$number")
    fi
  done <<<"$1"
}
pairs() { # KEY id=X lines
  local line
  while IFS= read -r line; do
    if given "$line"; then arguments+=(--secret "id=${line%%=*},$1=${line#*=}"); fi
  done <<<"$2"
}
secret "${INPUT_SECRETS-}"
pairs env "${INPUT_SECRET_ENVS-}"
pairs src "${INPUT_SECRET_FILES-}"

if [ "${INPUT_INSTALL:-none}" != none ]; then
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet "$INPUT_INSTALL${INPUT_VERSION:+==$INPUT_VERSION}"
  PATH=$work/venv/bin:$PATH
fi

# A runner's user may become root, and as root there are overlay mounts; the logins are the user's.
run=(asyncbuild)
if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  export DOCKER_CONFIG=${DOCKER_CONFIG:-$HOME/.docker}
  run=(sudo --preserve-env env "PATH=$PATH" asyncbuild)
fi
"${run[@]}" "${arguments[@]}" "${INPUT_CONTEXT:-.}"

metadata=$(cat "$work/metadata.json")
{
  echo "imageid=$(cat "$work/iid")"
  echo "digest=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["containerimage.digest"])' "$work/metadata.json")"
  echo "metadata<<asyncbuild-$$"
  echo "$metadata"
  echo "asyncbuild-$$"
} >>"${GITHUB_OUTPUT:-/dev/stdout}"
