"""usage: streams.py BUILD MODEL RECORDING…

One captiond, each recording an input of its own and all of them in real time at once. For each stream: the words, how long after
their end they were committed (each commit counts once), and the sound that was given up.
"""
import json
import statistics
import subprocess
import sys


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    build, model, *recordings = sys.argv[1:]
    command = [f"{build}/captiond", "--config", "/dev/null", "--model", model, "--pace", "realtime", "--once", "--stdout", "jsonl"]
    for i, recording in enumerate(recordings):
        command += ["--input", f"s{i + 1}=file:{recording}"]
    lags, words, gaps = {}, {}, {}
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    for line in result.stdout.splitlines():
        event = json.loads(line)
        stream = event.get("stream")
        if event["type"] == "commit":
            lags.setdefault(stream, []).append(event["lag_ms"])
            words[stream] = words.get(stream, 0) + len(event["words"])
        elif event["type"] == "gap":
            gaps[stream] = gaps.get(stream, 0) + event["end_ms"] - event["start_ms"]
    print("stream  recording                        words  commits  lag ms: median     90 %   most  given up ms")
    for i, recording in enumerate(recordings):
        name = f"s{i + 1}"
        lag = sorted(lags.get(name, [0]))
        print(f"{name:7} {recording.rsplit('/', 1)[-1]:32} {words.get(name, 0):5} {len(lags.get(name, [])):8} "
              f"{statistics.median(lag):15.0f} {lag[int(0.9 * (len(lag) - 1))]:8} {lag[-1]:6} {gaps.get(name, 0):13}")


if __name__ == "__main__":
    main()
