"""The synthetic world's vocabulary: what its items are called, and what is written about them.

title(topic, generator), text(topic, generator), query(topic, generator)
"""

from typing import Final

import numpy as np

TOPICS: Final[dict[str, str]] = {
    "pottery": "bowl kiln glaze mug teapot vase clay saucer",
    "hiking": "trail boots ridge tent compass summit backpack ford",
    "baking": "sourdough brioche oven flour scone crumb proofing tart",
    "astronomy": "telescope comet nebula orbit eclipse lens galaxy crater",
    "gardening": "seedling trellis compost pruner orchid border hedge bulb",
    "cycling": "pannier crank saddle derailleur spoke peloton tyre brevet",
    "sailing": "rudder jib keel harbour mooring tiller spinnaker buoy",
    "knitting": "yarn cable cardigan needle merino shawl purl skein",
    "jazz": "trumpet quartet bebop saxophone ballad bassline swing chorus",
    "chess": "gambit endgame bishop opening pawn rook tempo fianchetto",
    "carpentry": "dovetail plane chisel walnut workbench veneer lathe mitre",
    "photography": "aperture tripod darkroom portrait shutter filter print exposure",
}
_ADJECTIVE_TEXT: Final = "quiet amber northern folded patient bright hollow second winter copper gentle early narrow lucky plain distant"
_FILLER_TEXT: Final = "with from for the made kept found slow simple weekend classic small after before morning"
TOPIC_NAMES: Final = tuple(TOPICS)
ADJECTIVES: Final = _ADJECTIVE_TEXT.split()
FILLERS: Final = _FILLER_TEXT.split()
_WORDS: Final = [words.split() for words in TOPICS.values()]
_TOPICAL_SHARE: Final = 0.6


def _pick(words: list[str], generator: np.random.Generator) -> str:
    return words[int(generator.integers(len(words)))]


def title(topic: int, generator: np.random.Generator) -> str:
    """Two or three words; the noun belongs to the topic."""
    words = [_pick(ADJECTIVES, generator), _pick(_WORDS[topic], generator)]
    if generator.random() < 0.5:
        words.append(_pick(_WORDS[topic], generator))
    return " ".join(words).capitalize()


def text(topic: int, generator: np.random.Generator) -> str:
    """Eight to fourteen words, six in ten of them the topic's."""
    length = int(generator.integers(8, 15))
    words = [_pick(_WORDS[topic] if generator.random() < _TOPICAL_SHARE else FILLERS, generator) for _ in range(length)]
    return " ".join(words).capitalize() + "."


def query(topic: int, generator: np.random.Generator) -> str:
    """What somebody types who looks for the topic."""
    first, second = generator.choice(len(_WORDS[topic]), size=2, replace=False)
    return f"{_WORDS[topic][first]} {_WORDS[topic][second]}"
