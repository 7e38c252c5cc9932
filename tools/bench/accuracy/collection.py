"""The recordings: a folder with NAME.flac, NAME.txt (the reference, if there is one) and MANIFEST.tsv."""
import csv
import dataclasses
import hashlib
import pathlib


@dataclasses.dataclass(eq=False)
class Recording:
    name: str
    path: pathlib.Path
    seconds: float
    language: str | None  # None: there is no speech, or no single language
    kind: str  # speech, mixed, noise, music, silence
    notes: str
    reference: str
    wav: pathlib.Path | None = None  # 16 kHz, mono, 16 bits, as the peers hear it: see peers.prepare

    @property
    def english(self):
        return self.language == "en"

    @property
    def trusted(self):
        """The reference was not made by a machine or guessed."""
        return "trust=low" not in self.notes.lower()

    def digest(self):
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def read(folder, subset=0, longest=0.0):
    """subset: no more than as many recordings, spread over the list; longest: none of more seconds; 0: all."""
    folder = pathlib.Path(folder)
    recordings = []
    with open(folder / "MANIFEST.tsv", encoding="utf-8") as manifest:
        for row in csv.DictReader(manifest, delimiter="\t", quoting=csv.QUOTE_NONE):
            path = folder / row["file"]
            text = path.with_suffix(".txt")
            notes = next((value for key, value in row.items() if key and key.startswith("notes")), "") or ""
            recordings.append(Recording(
                name=path.stem, path=path, seconds=float(row["seconds"]),
                language=row["language"] if row["language"].isalpha() else None, kind=row["kind"], notes=notes,
                reference=text.read_text(encoding="utf-8").strip() if text.exists() else ""))
    if longest > 0:
        recordings = [r for r in recordings if r.seconds <= longest]
    if 0 < subset < len(recordings):
        recordings = [recordings[i * len(recordings) // subset] for i in range(subset)]
    return recordings
