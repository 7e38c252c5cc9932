"""captiond-transcribe beside faster-whisper and openai-whisper on a folder of recordings: accuracy, and what is claimed of it.

Writes a report in Markdown and all figures as JSON. See README.md for the folder's layout.
"""
import argparse
import concurrent.futures
import itertools
import json
import os
import pathlib
import subprocess
import sys

import collection
import draws
import measures
import peers
import report
import scoring
import speed
from modes import BEAM, GREEDY, PLAIN, UNSTAMPED, WORDS
from ours import Captiond

# captiond's sides of the tables: precision, gate.
SETTINGS = {measures.OURS: ("f32", True), measures.OURS_DEFAULT: ("auto", True),
            measures.OURS_OPEN: ("f32", False), measures.OURS_DEFAULT_OPEN: ("auto", False)}


def parse():
    p = argparse.ArgumentParser(prog="make accuracy", description=__doc__)
    p.add_argument("build")
    p.add_argument("folder", help="recordings, references and MANIFEST.tsv")
    p.add_argument("--models", default="tiny.en base", help="an English-only one is given what is English or no speech")
    p.add_argument("--python", default=os.environ.get("CAPTIOND_PEERS", sys.executable),
                   help="Python environments that have the peers, joined by colons")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="of captiond, and of all for the speed")
    p.add_argument("--peer-processes", type=int, default=os.cpu_count(), help="of a peer at a time, each of one thread")
    p.add_argument("--rounds", type=int, default=5, help="of the speed; 0: leave it out")
    p.add_argument("--subset", type=int, default=0, help="take only as many recordings")
    p.add_argument("--draws", type=int, default=8, help="of a text that was sampled, whose errors are the mean; and three times "
                   "as many where a claim would else depend on chance")
    p.add_argument("--longest", type=float, default=0, help="leave out recordings of more seconds")
    p.add_argument("--peers-only", action="store_true", help="only let the peers fill the cache, and write nothing")
    p.add_argument("--fresh", action="store_true", help="compute everything; else answers of earlier runs with the same "
                   "versions, weights, recordings and options are taken")
    p.add_argument("--out", default="docs/accuracy.md")
    return p.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


def model_folder(build, model):
    found = subprocess.run([f"{build}/captiond-model", "path", model], capture_output=True, text=True)
    folder = found.stdout.strip()
    if found.returncode or not os.path.isfile(f"{folder}/model.bin"):
        sys.exit(f"{model}: no CTranslate2 folder, which is what the peers read: {found.stderr}")
    if not list(pathlib.Path(folder).glob("vocabulary.*")):
        sys.exit(f"{model}: {folder} has no vocabulary, without which faster-whisper does not open it: "
                 f"remove the folder and run captiond-model get {model}")
    return folder


class Study:
    """Everything about one model. Transcripts: {side: {recording name: answer}}."""

    def __init__(self, options, model, recordings, pythons, cache):
        self.model = model
        self.folder = model_folder(options.build, model)
        self.english_only = model.endswith(".en")
        self.recordings = [r for r in recordings if not self.english_only or r.language in (None, "en")]
        self.captiond = Captiond(options.build, model, options.threads, cache, options.fresh)
        self.faster = peers.Peer(measures.FASTER, pythons["faster_whisper"], "worker_faster.py", self.folder,
                                 cache, options.fresh, "float32")
        self.openai = peers.Peer(measures.OPENAI, pythons["whisper"], "worker_openai.py", self.folder,
                                 cache, options.fresh)
        self.n_draws = options.draws
        self.claims, self.differences, self.losses = [], [], []
        self.tables = {}  # {mode: {recording: {side: Alignment}}}
        self.draws = {}  # {mode: {recording: {side: [errors]}}} of what was drawn several times
        self.stray = {}  # {mode: {recording: {side: words}}}
        self.timings, self.timed = {}, None

    def transcribe(self, recording, mode, side, seed=0):
        if side in SETTINGS:
            precision, gate = SETTINGS[side]
            return self.captiond.transcribe(recording, mode, precision, gate, seed=seed)
        peer = self.faster if side == self.faster.name else self.openai
        return peer.transcribe(recording, mode, seed)

    def transcripts(self, mode, sides):
        answers = {}
        for side in sides:
            say(f"{self.model}, {mode.name}: {side}")
            answers[side] = {r.name: self.transcribe(r, mode, side) for r in self.recordings}
        return answers

    def draw(self, mode, recordings, sides, n):
        """Puts mean scores over n draws into the table, where texts were sampled."""
        say(f"{self.model}, {mode.name}: {n} draws of what was sampled")
        for recording in recordings:
            for side, answers in sides.items():
                first = answers[recording.name]
                if not draws.wanted(recording, first):
                    continue
                others = [self.transcribe(recording, mode, side, seed) for seed in range(1, n)]
                alignments = self.tables[mode][recording]
                alignments[side], errors = draws.average(recording, alignments[side], [first, *others])
                self.draws.setdefault(mode, {}).setdefault(recording, {})[side] = errors

    def draw_enough(self, mode, sides):
        table, drawn = self.tables[mode], self.draws.setdefault(mode, {})
        self.draw(mode, table, sides, self.n_draws)
        undecided = measures.undecided(measures.pooled(table), drawn)
        self.draw(mode, [r for r in drawn if scoring.group(r) in undecided], sides, 3 * self.n_draws)

    def align(self, sides):
        return {r: {side: scoring.align(r, answers[r.name]["text"]) for side, answers in sides.items()}
                for r in self.recordings if r.reference}

    def measure_errors(self):
        for mode in (GREEDY, BEAM):
            sides = self.transcripts(mode, [*SETTINGS, measures.FASTER, measures.OPENAI])
            self.tables[mode] = self.align(sides)
            self.draw_enough(mode, sides)
            self.stray[mode] = {r: {side: scoring.word_count(answers[r.name]["text"]) for side, answers in sides.items()}
                                for r in self.recordings if not r.reference}
            self.claims += measures.error_rates(self.model, mode, measures.pooled(self.tables[mode]))
            self.claims += measures.stray_words(self.model, mode, self.stray[mode])
            self.find_losses(mode, self.tables[mode])

    def find_losses(self, mode, ours):
        """Text without timestamps is compared with what the peers hear with them: they lose more without."""
        theirs = self.tables[BEAM if mode == BEAM else GREEDY]
        claims, losses = measures.lost_speech(self.model, mode, ours, theirs)
        self.claims += claims
        self.losses += losses

    def measure_unstamped(self):
        self.find_losses(UNSTAMPED, self.align(self.transcripts(UNSTAMPED, [measures.OURS, measures.OURS_DEFAULT])))

    def same_sound(self, mode):
        """Ours in f32 without the gate, from the peers' samples, and openai-whisper's."""
        say(f"{self.model}, {mode.name}")
        theirs = {r.name: self.openai.transcribe(r, mode) for r in self.recordings}
        ours = {r.name: self.captiond.transcribe(r, mode, "f32", gate=False, prepared=True) for r in self.recordings}
        return ours, theirs

    def measure_tokens(self):
        claims, self.differences = measures.same_tokens(self.model, self.recordings, *self.same_sound(PLAIN), self.openai)
        self.claims += claims

    def measure_words(self):
        self.claims += measures.word_times(self.model, self.recordings, *self.same_sound(WORDS))

    def measure_languages(self):
        if self.english_only:
            return
        say(f"{self.model}: languages")
        theirs = {r.name: self.openai.ask(r, do="detect")["language"] for r in self.recordings}
        ours = {r.name: self.captiond.transcribe(r, PLAIN, language=False)["language"] for r in self.recordings}
        self.claims += measures.languages(self.model, self.recordings, ours, theirs)

    def measure_speed(self, options, python, cache):
        self.timed = speed.choose(self.recordings)
        say(f"{self.model}: speed on {self.timed.name}")
        self.timings = speed.measure(options.build, self.model, self.folder, self.timed, python, options.threads,
                                     options.rounds, cache)
        self.claims += measures.speeds(self.model, self.timings)

    def ask_draws(self, recording, mode, peer):
        if draws.wanted(recording, peer.transcribe(recording, mode)):
            for seed in range(1, self.n_draws):
                peer.transcribe(recording, mode, seed)

    def ask_peers(self, n_processes):
        """Lets the peers fill the cache with all that is asked of them but the speed, the longest recordings first."""
        say(f"{self.model}: the peers")
        questions = [lambda r, mode=mode, peer=peer: peer.transcribe(r, mode)
                     for mode in (GREEDY, BEAM) for peer in (self.faster, self.openai)]
        questions.append(lambda r: self.openai.transcribe(r, WORDS))
        if not self.english_only:
            questions.append(lambda r: self.openai.ask(r, do="detect"))
        longest = sorted(self.recordings, key=lambda r: -r.seconds)
        with concurrent.futures.ThreadPoolExecutor(n_processes) as pool:
            for answer in [pool.submit(question, r) for r in longest for question in questions]:
                answer.result()
            list(pool.map(lambda r: self.openai.transcribe(r, PLAIN), longest))  # it looks at the greedy answers
            list(pool.map(lambda question: self.ask_draws(*question), itertools.product(longest, (GREEDY, BEAM),
                                                                                       (self.faster, self.openai))))
        self.faster.close()
        self.openai.close()

    def run(self, options, pythons, cache):
        self.ask_peers(options.peer_processes)
        self.measure_errors()
        self.measure_unstamped()
        self.measure_tokens()
        self.measure_words()
        self.measure_languages()
        if options.rounds:
            self.measure_speed(options, pythons["faster_whisper"], cache)


def main():
    options = parse()
    cache = pathlib.Path(options.build) / "accuracy-cache"
    cache.mkdir(parents=True, exist_ok=True)
    pythons = {module: peers.find_python(options.python.split(":"), module) for module in ("faster_whisper", "whisper")}
    recordings = collection.read(options.folder, options.subset, options.longest)
    studies = []
    for model in options.models.split():
        study = Study(options, model, recordings, pythons, cache)
        peers.prepare(recordings, study.faster, cache)
        if options.peers_only:
            study.ask_peers(options.peer_processes)
            continue
        study.run(options, pythons, cache)
        studies.append(study)
    if options.peers_only:
        return
    pathlib.Path(options.out).write_text(report.markdown(studies, options), encoding="utf-8")
    figures = pathlib.Path(options.build) / "accuracy.json"
    figures.write_text(json.dumps(report.figures(studies), ensure_ascii=False, indent=1), encoding="utf-8")
    short = sum(claim.passed is False for study in studies for claim in study.claims)
    say(f"{options.out} and {figures} are written; {short} claims fall short")


if __name__ == "__main__":
    main()
