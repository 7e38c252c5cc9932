#!/bin/sh
# A microphone without hardware: a private sound server whose null sink "vmic" is what programs hear.
#
#   virtual-microphone.sh start DIR    starts it, waits until it answers, prints what `env` prints
#   virtual-microphone.sh env DIR      lines NAME=VALUE to put into the environment of the listener and of pactl, paplay
#   virtual-microphone.sh stop DIR     ends it; DIR may be removed then
#
# Whatever is played to vmic is heard: paplay --device=vmic x.wav. DIR/pid holds the server's process.
# PulseAudio is used where it is installed, else PipeWire with its Pulse server (VMIC_SERVER says which), both as instances
# of their own that touch neither the user's session nor its configuration. Exit status 77 where neither is there.
set -eu

action=${1:?start, env or stop}
dir=${2:?the directory for sockets and state}

print_env() {
    cat <<EOF
XDG_RUNTIME_DIR=$dir/run
XDG_CONFIG_HOME=$dir/config
XDG_STATE_HOME=$dir/state
PULSE_RUNTIME_PATH=$dir/run/pulse
PULSE_STATE_PATH=$dir/state
PULSE_SERVER=unix:$dir/run/pulse/native
PULSE_COOKIE=$dir/cookie
PIPEWIRE_RUNTIME_DIR=$dir/run
ALSA_CONFIG_PATH=$dir/alsa.conf
JACK_NO_START_SERVER=1
EOF
}

# Two PCMs and no cards: the machine's own configuration and hardware must not matter.
write_alsa_conf() {
    cat > "$dir/alsa.conf" <<'EOF'
pcm.pulse { type pulse hint { show on description "virtual microphone" } }
ctl.pulse { type pulse }
pcm.!default { type pulse hint { show on description "virtual microphone, default" } }
ctl.!default { type pulse }
defaults.namehint.basic on
defaults.namehint.extended on
EOF
}

# norewinds: without it the monitor is late and corrupted.
start_pulseaudio() {
    cat > "$dir/default.pa" <<EOF
load-module module-native-protocol-unix auth-anonymous=1 socket=$dir/run/pulse/native
load-module module-null-sink sink_name=vmic rate=${VMIC_RATE:-48000} channels=${VMIC_CHANNELS:-2} format=s16le norewinds=1
set-default-sink vmic
set-default-source vmic.monitor
EOF
    rm -f "$dir/run/pulse/pid"
    pulseaudio -n -F "$dir/default.pa" --daemonize=no --exit-idle-time=-1 --use-pid-file=yes \
        --high-priority=no --realtime=no --disable-shm=yes --log-target="file:$dir/server.log" \
        > /dev/null 2>&1 < /dev/null &
    echo $! > "$dir/pid"
}

# Without a session manager nothing is linked, so wireplumber is needed too; it wants a message bus, any will do.
start_pipewire() {
    pids=
    for program in pipewire "dbus-run-session -- wireplumber" pipewire-pulse; do
        $program > "$dir/${program##* }.log" 2>&1 < /dev/null &
        pids="$pids $!"
    done
    echo "$pids" > "$dir/pids"
    echo $! > "$dir/pid"
}

# The defaults can only be set once wireplumber is ready.
make_pipewire_sink() {
    pactl load-module module-null-sink sink_name=vmic rate="${VMIC_RATE:-48000}" > /dev/null
    tries=0
    until pactl set-default-sink vmic 2> /dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || { echo "PipeWire has no session manager, see $dir" >&2; exit 1; }
        sleep 0.05
    done
    pactl set-default-source vmic.monitor
}

stop() {
    for file in "$dir/pids" "$dir/pid"; do
        if [ -f "$file" ]; then
            # shellcheck disable=SC2046
            kill $(cat "$file") 2> /dev/null || true
            rm "$file"
        fi
    done
}

start() {
    command -v pactl > /dev/null || exit 77
    stop # what a server that died has left behind
    mkdir -p "$dir/run/pulse" "$dir/state" "$dir/config"
    chmod 700 "$dir/run"
    write_alsa_conf
    for line in $(print_env); do
        export "${line?}"
    done
    server=${VMIC_SERVER:-}
    if [ "${server:-pulseaudio}" = pulseaudio ] && command -v pulseaudio > /dev/null; then
        start_pulseaudio
    elif [ "${server:-pipewire}" = pipewire ] && command -v pipewire-pulse > /dev/null &&
        command -v wireplumber > /dev/null; then
        server=pipewire
        start_pipewire
    else
        exit 77
    fi
    tries=0
    until pactl info > /dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || { echo "the sound server does not answer, see $dir" >&2; exit 1; }
        sleep 0.05
    done
    if [ "$server" = pipewire ]; then
        make_pipewire_sink
    fi
    print_env
}

case $action in
start) start ;;
env) print_env ;;
stop) stop ;;
*) echo "usage: $0 start|env|stop DIR" >&2; exit 2 ;;
esac
