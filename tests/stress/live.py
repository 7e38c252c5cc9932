"""usage: live.py BUILD RECORDING MODEL [SECONDS]

Plays a recording, again and again, into a virtual microphone (tests/system/virtual-microphone.sh) and captions it for
SECONDS (600). Every minute it prints the latency of the commits of that minute (from the end of the last word to the event,
as the daemon tells it), the queue and the resident memory. Ends with status 1 if captions stopped, a gap was told,
or the last quarter's memory or median latency exceeds the first quarter's by more than a tenth (and 4 MiB, 100 ms).
"""
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

MIC = pathlib.Path(__file__).parent.parent / "system" / "virtual-microphone.sh"


def resident_mib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def connect(path):
    for _ in range(300):
        try:
            s = socket.socket(socket.AF_UNIX)
            s.connect(path)
            return s
        except OSError:
            time.sleep(0.1)
    sys.exit("captiond did not open its socket within 30 s")


def minutes(daemon, s, seconds):
    """One row a minute: latencies of its commits, gaps, memory at its end."""
    rows, row = [], {"lag": [], "gaps": 0, "queue": 0}
    s.settimeout(30)
    lines = s.makefile("r", encoding="utf-8")
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        event = json.loads(lines.readline())
        if event["type"] == "commit":
            row["lag"].append(event["lag_ms"])
        elif event["type"] == "gap":
            row["gaps"] += 1
        elif event["type"] == "status":
            row["queue"] = max(row["queue"], event["queue_ms"])
        if time.monotonic() - begin >= 60 * (len(rows) + 1):
            row["mib"] = resident_mib(daemon.pid)
            lag = sorted(row["lag"]) or [0]
            print(f"minute {len(rows) + 1:3d}: {len(row['lag']):4d} commits, latency median {statistics.median(lag):5.0f} ms, "
                  f"p90 {lag[int(0.9 * (len(lag) - 1))]:5.0f} ms, queue {row['queue']:5d} ms, {row['gaps']} gaps, "
                  f"{row['mib']:.1f} MiB resident", flush=True)
            rows.append(row)
            row = {"lag": [], "gaps": 0, "queue": 0}
    return rows


def judge(rows):
    if not rows or any(not r["lag"] for r in rows):
        return "there are minutes without captions"
    if any(r["gaps"] for r in rows):
        return "sound was lost"
    n = max(1, len(rows) // 4)
    first, last = rows[:n], rows[-n:]
    memory = [statistics.mean(r["mib"] for r in part) for part in (first, last)]
    if memory[1] > 1.1 * memory[0] and memory[1] > memory[0] + 4:
        return f"memory grew from {memory[0]:.1f} to {memory[1]:.1f} MiB"
    lag = [statistics.median([x for r in part for x in r["lag"]]) for part in (first, last)]
    if lag[1] > 1.1 * lag[0] and lag[1] > lag[0] + 100:
        return f"latency grew from {lag[0]:.0f} to {lag[1]:.0f} ms"
    return None


def main():
    build, recording, model = sys.argv[1:4]
    seconds = int(sys.argv[4]) if len(sys.argv) > 4 else 600
    with tempfile.TemporaryDirectory() as folder:
        started = subprocess.run([MIC, "start", folder + "/mic"], capture_output=True, text=True)
        if started.returncode == 77:
            sys.exit("SKIPPED: no PulseAudio and no PipeWire for the virtual microphone")
        started.check_returncode()
        environment = dict(os.environ)
        environment.update(line.split("=", 1) for line in started.stdout.splitlines())
        player = subprocess.Popen(["sh", "-c", f"while paplay --device=vmic '{recording}'; do :; done"], env=environment,
                                  start_new_session=True)
        daemon = subprocess.Popen([f"{build}/captiond", "--model", model, "--socket", folder + "/c.sock"], env=environment)
        try:
            fault = judge(minutes(daemon, connect(folder + "/c.sock"), seconds))
        finally:
            daemon.terminate()
            os.killpg(player.pid, 15)
            status = daemon.wait()
            subprocess.run([MIC, "stop", folder + "/mic"])
    if status != 0:
        fault = fault or f"captiond ended with status {status}"
    print("flat" if not fault else f"failed: {fault}")
    sys.exit(1 if fault else 0)


if __name__ == "__main__":
    main()
