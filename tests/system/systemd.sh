#!/bin/bash
# usage: tests/system/systemd.sh BUILD MODEL RECORDING
#
# Installs captiond into an overlay of this machine's root, boots a real systemd in it (systemd-nspawn), and lets that
# run the units. Prints a line for each thing that was tried. Exit status: 0 all right, 1 something failed, 77 this
# cannot be done here (why is said).
set -u
build=${1:?usage: systemd.sh BUILD MODEL RECORDING}
model=${2:?}
recording=${3:?}
failures=0
work=

unable() {
    echo "cannot run: $*"
    exit 77
}

check() { # NAME COMMAND…
    local name=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        echo "ok: $name"
    else
        echo "FAILED: $name"
        [ -z "${leader:-}" ] || within journalctl -q -n 15 --no-pager -u captiond.service >>"$work/out" 2>&1
        sed 's/^/    /' "$work/out"
        failures=$((failures + 1))
    fi
}

# --- the machine --------------------------------------------------------------------------------------------------

within() { # COMMAND…: inside
    nsenter -t "$leader" -m -u -i -n -p -C -- "$@"
}

await() { # SECONDS COMMAND…: until it succeeds
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}

mount_root() {
    work=$(mktemp -d) || unable "no temporary folder"
    mount -t tmpfs -o mode=755 tmpfs "$work" || unable "no tmpfs can be mounted"
    mkdir "$work"/{upper,scratch,root}
    mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/scratch" "$work/root" ||
        unable "no overlay can be mounted"
    root=$work/root
    : >"$root/etc/machine-id"
    local unit
    for unit in systemd-networkd.service systemd-resolved.service systemd-timesyncd.service ssh.service cron.service \
        apt-daily.timer apt-daily-upgrade.timer; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
}

boot() {
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit -M "captiond-test-$$" -D "$root" \
        --private-network --console=pipe --bind-ro="$model:/var/lib/captiond/models/tiny.en" \
        --bind-ro="$recording:/var/lib/captiond/speech.flac" -b </dev/null >"$work/console" 2>&1 &
    nspawn=$!
    await 10 leader_runs || unable "systemd does not start: $(tail -3 "$work/console")"
    await 60 booted || unable "systemd does not get up: $(tail -3 "$work/console")"
}

leader_runs() {
    kill -0 $nspawn 2>/dev/null || unable "systemd-nspawn: $(tail -3 "$work/console")"
    leader=$(pgrep -P $nspawn | head -1)
    [ -n "$leader" ] && [ "$(cat "/proc/$leader/comm" 2>/dev/null)" = systemd ]
}

booted() {
    case $(within systemctl is-system-running 2>/dev/null) in running | degraded) return 0 ;; *) return 1 ;; esac
}

take_down() {
    if [ -n "${leader:-}" ]; then
        kill -s SIGRTMIN+4 "$leader" 2>/dev/null # poweroff.target
        await 15 gone || kill -KILL "$leader" 2>/dev/null
        wait "$nspawn" 2>/dev/null
    fi
    [ -n "$work" ] || return
    umount "$work/root" 2>/dev/null
    umount "$work" 2>/dev/null
    rmdir "$work"
}

gone() {
    ! kill -0 "$nspawn" 2>/dev/null
}

# --- what is asked ------------------------------------------------------------------------------------------------

property() { # NAME [MANAGER]
    within systemctl ${2:-} show -P "$1" captiond.service
}

main_pid() {
    local pid
    pid=$(property MainPID)
    [ "${pid:-0}" -gt 1 ] && echo "$pid"
}

running() {
    [ "$(property ActiveState)" = active ]
}

restarted_from() { # PID
    local now
    now=$(property MainPID)
    running && [ "$now" != 0 ] && [ "$now" != "$1" ]
}

ask() { # SOCKET: the first line that is told
    within timeout 10 socat -u "UNIX-CONNECT:$1" - | head -1 | grep '"type":"hello"'
}

log_has() { # TEXT
    within journalctl -q -o cat -u captiond.service | grep -F -- "$1"
}

status_has() { # TEXT
    property StatusText | grep -F -- "$1"
}

# --- the tests ----------------------------------------------------------------------------------------------------

installed() { # for everybody, although root keeps what is new to itself
    (umask 077 && make -s install DESTDIR="$root" PREFIX=/usr BUILD="$build" PROGRAMS="$build/captiond $build/captionctl") &&
        ! find "$work/upper/usr" -name '*captiond*' ! -perm -o=r | grep .
}

verified() { # systemd-analyze says some errors without failing
    local said
    said=$(within systemd-analyze verify /usr/lib/systemd/system/captiond.service \
        /usr/lib/systemd/system/captiond{,-control}.socket /usr/lib/systemd/system/captiond-gpu.service 2>&1) || { echo "$said" && return 1; }
    ! grep captiond <<<"$said"
}

hardened() {
    within systemd-analyze security --no-pager --threshold=20 captiond.service
}

starts() {
    within systemctl start captiond.service && running
}

starts_by_connection() {
    within systemctl start captiond.socket captiond-control.socket &&
        ask /run/captiond/captions.sock && await 10 running
}

guards_its_sockets() {
    [ "$(within stat -c '%a %G' /run/captiond/captions.sock)" = '660 captiond' ] &&
        [ "$(within stat -c '%a %U' /run/captiond/control.sock)" = '600 root' ]
}

waits_for_a_device() { # there is no sound card in here
    await 10 status_has no_device
}

answers_control() {
    within captionctl --control /run/captiond/control.sock status --json | grep '"state":"no_device"'
}

reloads() {
    within sh -c 'echo "history-events = 123" >/etc/captiond/captiond.conf' &&
        within systemctl reload captiond.service && await 10 log_has 'history-events is now 123' && running
}

logs_with_priorities() {
    within journalctl -q -p warning..warning -u captiond.service | grep no_device
}

makes_devices_first() { # before captiond's unit starts, which may use the devices that there are then
    local made began
    made=$(within systemctl show -P ExecMainExitTimestampMonotonic captiond-gpu.service)
    began=$(property ExecMainStartTimestampMonotonic)
    within grep -qx -- '0 -u -c=0' /run/nvidia-modprobe && [ "$made" -gt 0 ] && [ "$made" -le "$began" ]
}

feeds_the_watchdog() {
    local pid
    pid=$(main_pid) || return 1
    sleep 5
    [ "$(property MainPID)" = "$pid" ] && [ "$(property NRestarts)" = 0 ]
}

is_restarted_when_killed() {
    local pid
    pid=$(main_pid) || return 1
    within kill -KILL "$pid"
    ask /run/captiond/captions.sock && await 20 restarted_from "$pid"
}

ctl() { # COMMAND…
    within captionctl --control /run/captiond/control.sock "$@"
}

is_paused() {
    ctl status --json | grep '"state":"paused"'
}

is_not_paused() {
    ctl status --json | grep '"type"' && ! is_paused
}

stays_paused_when_killed() {
    local pid
    ctl pause && pid=$(main_pid) || return 1
    within kill -KILL "$pid"
    await 20 restarted_from "$pid" && await 10 is_paused && log_has "as before the restart" || return 1
    ctl resume && pid=$(main_pid) || return 1
    within systemctl restart captiond.service
    restarted_from "$pid" && await 10 is_not_paused
}

is_restarted_when_it_hangs() {
    local pid
    pid=$(main_pid) || return 1
    within kill -STOP "$pid"
    await 30 restarted_from "$pid"
}

stops_cleanly() {
    local before=$SECONDS
    within systemctl stop captiond.service
    [ $((SECONDS - before)) -le 3 ] && [ "$(property Result)" = success ] && [ "$(property ExecMainStatus)" = 0 ]
}

captions_when_hardened() {
    within sh -c 'echo "input = file:/var/lib/captiond/speech.flac" >/etc/captiond/captiond.conf' &&
        starts && (echo '{"cmd":"subscribe","from_seq":1}'; sleep 40) |
        within timeout 40 socat - UNIX-CONNECT:/run/captiond/captions.sock | grep -m1 '"type":"commit"'
}

user() { # COMMAND…
    within env XDG_RUNTIME_DIR=/run/user/0 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/0/bus "$@"
}

runs_for_a_user() {
    within systemctl start user@0.service && user systemctl --user daemon-reload &&
        user systemctl --user start captiond.socket captiond-control.socket &&
        ask /run/user/0/captiond/captions.sock &&
        [ "$(user systemctl --user show -P ActiveState captiond.service)" = active ] &&
        user captionctl status && [ "$(user systemctl --user show -P ConditionResult captiond-gpu.service)" = yes ] &&
        user systemctl --user stop captiond.service &&
        [ "$(user systemctl --user show -P Result captiond.service)" = success ]
}

uninstalled() { # the second time there is nothing to take away, and nothing to say
    for _ in once twice; do
        ! make -s uninstall DESTDIR="$root" PREFIX=/usr BUILD="$build" PROGRAMS="$build/captiond $build/captionctl" 2>&1 | grep -i 'rmdir\|error' || return 1
    done
    ! find "$work/upper/usr" -name '*captiond*' -type f | grep .
}

[ "$(id -u)" = 0 ] || unable "only root can boot a container"
for tool in systemd-nspawn socat nsenter make; do
    command -v $tool >/dev/null || unable "$tool is missing"
done
trap take_down EXIT
mount_root
check "make install" installed
mkdir -p "$root/etc/systemd/system/captiond.service.d" "$root/etc/captiond"
printf '[Service]\nWatchdogSec=2\n' >"$root/etc/systemd/system/captiond.service.d/test.conf"
printf '#!/bin/sh\necho "$(id -u) $*" >>/run/nvidia-modprobe\n' >"$root/usr/bin/nvidia-modprobe"
chmod +x "$root/usr/bin/nvidia-modprobe"
boot
check "user and folders are made" within id captiond
check "systemd-analyze verify" verified
check "systemd-analyze security" hardened
check "starts when somebody connects" starts_by_connection
check "sockets belong to the right people" guards_its_sockets
check "waits for a device and says so" waits_for_a_device
check "captionctl status" answers_control
check "systemctl reload" reloads
check "priorities in the journal" logs_with_priorities
check "device files of a GPU are made first" makes_devices_first
check "feeds the watchdog" feeds_the_watchdog
check "is restarted when killed, and the client that came meanwhile is served" is_restarted_when_killed
check "stays paused when killed, and no longer than asked" stays_paused_when_killed
check "is restarted when it hangs" is_restarted_when_it_hangs
check "systemctl stop" stops_cleanly
check "captions under all restrictions" captions_when_hardened
check "systemctl stop in the middle" stops_cleanly
check "runs for a user" runs_for_a_user
check "make uninstall" uninstalled
[ $failures -eq 0 ]
