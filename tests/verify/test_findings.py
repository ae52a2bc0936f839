"""What is proven moves only without a hole, and not past a key that is wrong."""

from __future__ import annotations

from replicator.verify.findings import KEPT_KEYS, DivergenceFindings, DivergentKey


def wrong(key: str, at: int, table: str = "t") -> DivergentKey:
    return DivergentKey(table, key.encode(), key, True, None, at, None)


def test_windows_move_what_is_proven() -> None:
    findings = DivergenceFindings(0)
    findings.window(5, [], [])
    findings.window(9, [], [])
    assert (findings.verified, findings.compared_at) == (9, 9)


def test_a_wrong_key_holds_it_until_it_is_right() -> None:
    findings = DivergenceFindings(5)
    findings.window(9, [wrong("a", 9)], [])
    findings.window(12, [wrong("a", 12)], [])
    assert (findings.verified, findings.checked, findings.mismatches) == (5, 12, 1)
    assert findings.divergent_keys() == {"t": 1}
    findings.window(15, [], [("t", b"a")])
    assert (findings.verified, findings.divergent_keys()) == (15, {})


def test_a_window_that_is_too_large_waits_for_a_scrub_behind_it() -> None:
    findings = DivergenceFindings(0)
    findings.too_large(100)
    assert findings.wants_scrub
    findings.window(110, [], [])
    assert findings.verified == 0
    findings.scrub(99, [], {})
    assert (findings.verified, findings.wants_scrub) == (0, True)
    findings.scrub(105, [], {})
    assert (findings.verified, findings.wants_scrub) == (110, False)


def test_a_scrub_replaces_what_was_known_before_it() -> None:
    findings = DivergenceFindings(0)
    findings.window(10, [wrong("a", 10)], [])
    findings.window(20, [wrong("b", 20)], [])
    findings.scrub(15, [wrong("c", 15)], {"u": 3})
    assert findings.divergent_keys() == {"t": 2, "u": 3}
    assert {name[1] for name in findings.wrong} == {b"b", b"c"}
    findings.scrub(30, [], {})
    assert (findings.divergent_keys(), findings.verified) == ({}, 30)


def test_a_scrub_finds_a_key_once() -> None:
    findings = DivergenceFindings(0)
    for at in (5, 6, 7):
        findings.scrub(at, [wrong("a", at)], {})
    assert findings.mismatches == 1


def test_a_replica_that_goes_back_is_compared_again() -> None:
    findings = DivergenceFindings(0)
    findings.window(50, [], [])
    findings.set_back(30)
    assert (findings.checked, findings.verified) == (30, 30)
    findings.window(50, [wrong("a", 50)], [])
    assert findings.verified == 30


def test_memory_is_bounded_and_nothing_is_uncounted() -> None:
    findings = DivergenceFindings(0)
    findings.window(1, [wrong(str(n), 1) for n in range(KEPT_KEYS + 5)], [])
    assert len(findings.wrong) == KEPT_KEYS
    assert findings.divergent_keys() == {"t": KEPT_KEYS + 5}


def test_somebody_may_ask_for_a_scrub() -> None:
    findings = DivergenceFindings(0)
    findings.window(3, [], [])
    findings.ask_for_scrub()
    assert (findings.wants_scrub, findings.is_clean) == (True, True)
    findings.scrub(3, [], {})
    assert not findings.wants_scrub


def test_a_copy_is_proven_by_a_scrub() -> None:
    findings = DivergenceFindings(0)
    findings.begin_at(500, is_proven=False)
    findings.window(510, [], [])
    assert (findings.verified, findings.wants_scrub) == (0, True)
    findings.scrub(505, [], {})
    assert findings.verified == 510
    findings.begin_at(700, is_proven=True)
    assert (findings.verified, findings.wants_scrub) == (700, False)
