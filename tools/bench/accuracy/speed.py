"""Time of a transcription without loading, turn by turn with faster-whisper."""
import measures
from modes import BEAM, GREEDY
from ours import Captiond
from peers import Worker

LENGTH = 160  # s: long enough for several windows, short enough for several rounds


def choose(recordings):
    """The clean English recording of about that length."""
    clean = [r for r in recordings if r.english and r.kind == "speech" and r.trusted]
    return min(clean or recordings, key=lambda r: abs(r.seconds - LENGTH))


def measure(build, model, folder, recording, python, threads, rounds, cache):
    """{(side, mode name): [seconds]}. A worker transcribes once before the clock runs; captiond-transcribe is started anew
    each time and tells its own time after loading."""
    captiond = Captiond(build, model, threads, cache, fresh=True)
    workers = {f"faster-whisper {kind}": Worker(python, "worker_faster.py", folder, threads, kind,
                                                log=open(cache / "speed.log", "a"))
               for kind in ("int8", "float32")}
    timings = {}
    for mode in (GREEDY, BEAM):
        for i in range(rounds + 1):
            taken = {measures.OURS_DEFAULT: captiond.run(recording.path, ["--beam-size", str(mode.beam)])["seconds"]}
            for side, worker in workers.items():
                answer = worker.ask(do="transcribe", file=str(recording.wav), language=recording.language, **mode.request())
                taken[side] = answer["seconds"]
            for side, seconds in taken.items() if i else ():
                timings.setdefault((side, mode.name), []).append(seconds)
    for worker in workers.values():
        worker.close()
    return timings
