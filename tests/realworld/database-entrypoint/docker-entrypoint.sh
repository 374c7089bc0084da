#!/bin/sh
set -eu
for script in /docker-entrypoint-initdb.d/*; do
    case "$script" in
        *.sh) . "$script" ;;
        *) echo "ignoring $script" ;;
    esac
done
if [ "$1" = db ] && [ "$(id -u)" = 0 ]; then
    shift
    exec su -s /bin/sh db -c "id -un; echo arguments: $*; stat -c '%a %U' $DB_DATA"
fi
exec "$@"
