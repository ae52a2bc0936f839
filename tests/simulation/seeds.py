"""Seeds whose history has broken a law once, and what it was. They are lived again by every test run.

What a seed tells changes with the model: it is kept for the kind of history that it is.
"""

from __future__ import annotations

FAILED: dict[int, str] = {
    9: "a region that stood for an epoch which another did not need refused to follow the winner, for ever",
    50: "the same primary in a newer epoch was taken for being followed already",
    209: "a candidate's own spool held a block that it had acknowledged, and it promoted without it",
    280: "a write of an old term was answered in a new one",
    330: "acknowledged blocks were orphans to a candidate that had yet to fetch them",
    446: "an old primary stood again and again, and could not get what the others had more",
    757: "a region that led still moved what it had once received into its journal",
    1185: "a replica that had begun its epoch's block and died could not stand any more",
    2291: "a region that had promised was started again, and its blocks were forgotten",
    4050: "what a promoted region had received and could not settle was settled behind its own blocks",
    5389: "a promise was told before what had been received was in the journal",
    8211: "an operator's pause came in the middle of a promotion",
}
