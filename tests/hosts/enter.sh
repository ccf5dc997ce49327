#!/bin/bash
# enter.sh: inside new mount, process, host name and IPC namespaces, make a container's file system and become its init.
#
#   ROOT      an empty folder, the new root          HOST       the host name
#   SYSTEM    folders of this machine, read-only     FILES      lines "SOURCE TARGET ro|rw", bound into the root
#   TMPFS     lines "TARGET OPTIONS"                 FOLDERS    folders to make
#   READ_ONLY whether the root can be written        RUN_AS     user and group number
#   WORK      the folder to start in                 ENVIRONMENT lines NAME=value, all that the command gets
# and the command's words as arguments.
set -eu
hostname "$HOST"
mount -t tmpfs -o mode=0755,nosuid,nodev image "$ROOT"

bind() { # SOURCE TARGET ro|rw
    if [ -d "$1" ]; then mkdir -p "$ROOT$2"; else mkdir -p "$(dirname "$ROOT$2")"; [ -e "$ROOT$2" ] || : >"$ROOT$2"; fi
    mount --bind "$1" "$ROOT$2"
    [ "$3" = rw ] || mount -o remount,bind,ro "$ROOT$2"
}

cp -a /etc "$ROOT/etc" # a copy: files of the container's own are added to it
for folder in $SYSTEM; do
    if [ -L "$folder" ]; then cp -a "$folder" "$ROOT$folder"; elif [ -d "$folder" ]; then bind "$folder" "$folder" ro; fi
done
mkdir -p "$ROOT"/{proc,sys,dev,tmp,run,var} && ln -s /run "$ROOT/var/run"
mount -t proc proc "$ROOT/proc"
mount -t sysfs -o ro sysfs "$ROOT/sys"
mount -t tmpfs -o mode=0755,nosuid dev "$ROOT/dev"
for device in null zero full random urandom tty; do bind "/dev/$device" "/dev/$device" rw; done
ln -s /proc/self/fd "$ROOT/dev/fd"
ln -s /proc/self/fd/0 "$ROOT/dev/stdin"
ln -s /proc/self/fd/1 "$ROOT/dev/stdout"
ln -s /proc/self/fd/2 "$ROOT/dev/stderr"
for folder in $FOLDERS; do mkdir -p "$ROOT$folder"; done
while read -r target options; do
    [ -n "$target" ] || continue
    mkdir -p "$ROOT$target" && mount -t tmpfs -o "$options" tmpfs "$ROOT$target"
done <<<"$TMPFS"
while read -r source target how; do
    [ -n "$source" ] || continue
    bind "$source" "$target" "$how"
done <<<"$FILES"
if [ "$READ_ONLY" = true ]; then mount -o remount,ro "$ROOT"; fi

mapfile -t environment <<<"$ENVIRONMENT"
# An engine's small init: it hands signals on and reaps orphans. It runs as the container's user, as the command does.
# A change of the user takes away that it dies with its parent, so this is said again.
exec chroot "$ROOT" setpriv --pdeathsig KILL --reuid "$RUN_AS" --regid "$RUN_AS" --clear-groups --bounding-set=-all --inh-caps=-all \
    --ambient-caps=-all --no-new-privs env --ignore-environment --chdir "$WORK" "${environment[@]}" \
    bash -c 'trap "kill -TERM \$child" TERM; trap "kill -INT \$child" INT
"$@" & child=$!
while wait "$child"; code=$?; kill -0 "$child" 2>/dev/null; do :; done
exit $code' init "$@"
