"""The ways of decoding that are compared."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Mode:
    name: str
    beam: int
    fallback: bool = True  # to higher temperatures
    words: bool = False  # with times of words
    timestamps: bool = True

    def request(self):
        """What is asked of a peer."""
        return {"beam": self.beam, "fallback": self.fallback, "words": self.words, "timestamps": self.timestamps}


GREEDY = Mode("greedy", 1)
BEAM = Mode("beam 5", 5)
PLAIN = Mode("greedy, temperature 0", 1, fallback=False)
WORDS = Mode("greedy, temperature 0, word times", 1, fallback=False, words=True)
UNSTAMPED = Mode("greedy, without timestamps", 1, timestamps=False)
