"""A configuration is whole and consistent, or it is refused with the place and the cure; secrets stay secret."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from replicator.cluster.decisions.loss import LossBudget
from replicator.cluster.failover.amounts import AmountRule
from replicator.config import (
    Config,
    EmbeddedSourceSettings,
    PostgresReplicaSettings,
    PostgresSourceSettings,
    SqliteReplicaSettings,
    load,
    parse,
)
from replicator.config import models as models
from replicator.config.load import keys_of
from replicator.config.locate import line_of
from replicator.errors import ConfigError
from replicator.pipeline.replay.quarantine import QuarantinePolicy
from replicator.runtime import wiring
from settle_buffer import AutoWindow

NESTED = ("tables", "limits", "amounts")  # sections of their own
EXAMPLES = Path(__file__).parents[2] / "config"
PRIMARY = '[region]\nname = "paris"\nrole = "primary"\ndata_dir = "data"\n'
REPLICA = '[region]\nname = "tokyo"\nrole = "replica"\ndata_dir = "data"\n'
EMBEDDED = '[source]\nkind = "embedded"\n'
POSTGRES = '[source]\nkind = "postgres"\ndsn = "host=a"\n'
FOLLOW = '[follow]\nprimary = "https://paris:7400"\n'
SQLITE = '[replica]\nkind = "sqlite"\npath = "r.sqlite3"\n'


def refused(text: str, environment: dict[str, str] | None = None, path: str = "/etc/region.toml") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, path, environment or {})
    return caught.value


# -- the examples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_every_example_reads_without_any_environment(path: Path) -> None:
    config = load(path, {})
    assert config.region.data_dir.parent == EXAMPLES.parent / "data"


def test_the_examples_of_one_primary_do_not_collide() -> None:
    configs = [load(path, {}) for path in EXAMPLES.glob("*.toml") if path.name != "reference.toml"]
    assert len({config.http.listen for config in configs}) == len(configs)
    assert len({config.region.data_dir for config in configs}) == len(configs)


def test_each_replica_example_follows_its_primary() -> None:
    for kind, replica in (("embedded", "sqlite"), ("postgres", "postgres")):
        follow = load(EXAMPLES / f"{replica}-replica.toml", {}).follow
        assert follow is not None
        assert follow.primary == load(EXAMPLES / f"{kind}-primary.toml", {}).url


def reference_variants() -> Iterator[dict[str, Any]]:
    """The reference as it is, and each block behind ``#:`` as a text of its own."""
    text = (EXAMPLES / "reference.toml").read_text()
    yield tomllib.loads(text)
    for block in re.findall(r"(?:^#: .*\n|^# [a-z_]+ = .*\n)+", text, re.MULTILINE):
        if block.startswith("#: ["):
            yield tomllib.loads("\n".join(line[3:] for line in block.splitlines() if line.startswith("#: ")))


def sections() -> list[tuple[str, type[models.Section]]]:
    return [
        ("region", models.RegionSettings),
        ("http", models.HttpSettings),
        ("source", EmbeddedSourceSettings),
        ("source.limits", models.LimitsSettings),
        ("source.tables", models.TableSettings),
        ("source", PostgresSourceSettings),
        ("feed", models.FeedSettings),
        ("follow", models.FollowSettings),
        ("settle", models.SettleSettings),
        ("replica", SqliteReplicaSettings),
        ("replica", PostgresReplicaSettings),
        ("replay", models.ReplaySettings),
        ("journal", models.JournalSettings),
        ("copy", models.CopySettings),
        ("verify", models.VerifySettings),
        ("cluster", models.ClusterSettings),
        ("lease", models.EtcdLeaseSettings),
        ("lease", models.StaticLeaseSettings),
        ("failover", models.FailoverSettings),
        ("failover.amounts", models.AmountSettings),
        ("stop", models.StopSettings),
    ]


def written(section: str, kind: str | None) -> dict[str, Any]:
    """What the reference sets in a section, of the kind that is asked for."""
    for variant in reference_variants():
        found: Any = variant
        for name in section.split("."):
            found = found.get(name, {}) if isinstance(found, dict) else {}
        found = found[0] if isinstance(found, list) else found
        if found and (kind is None or found.get("kind") == kind):
            return dict(found)
    return {}


def kind_of(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return None if field is None else str(field.annotation).split("'")[1]


@pytest.mark.parametrize(("section", "model"), sections(), ids=lambda value: getattr(value, "__name__", None))
def test_the_reference_documents_every_key_and_no_other(section: str, model: type[models.Section]) -> None:
    text = (EXAMPLES / "reference.toml").read_text()
    mentioned = set(written(section, kind_of(model)))
    for key in keys_of(model):
        if key not in mentioned and key not in NESTED:
            assert re.search(rf"^# {key} = \S.*  +# \S|^# {key} = \S.*  ?# \S", text, re.MULTILINE), key
    assert mentioned - set(NESTED) <= set(keys_of(model))


def defaults() -> list[tuple[str, type[models.Section], str, FieldInfo]]:
    return [
        (section, model, field.alias or name, field)
        for section, model in sections()
        for name, field in model.model_fields.items()
        if not field.is_required() and field.default is not None and (field.alias or name) not in NESTED
    ]


@pytest.mark.parametrize(
    ("section", "model", "key", "field"), defaults(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_reference_shows_the_defaults_of_the_code(
    section: str, model: type[models.Section], key: str, field: FieldInfo
) -> None:
    shown = written(section, kind_of(model))
    assert key in shown, f"the reference does not show [{section}] {key}"
    bases: dict[type[models.Section], tuple[str, ...]] = {
        models.RegionSettings: ("name", "role", "data_dir"),
        models.TableSettings: ("name", "key"),
        models.AmountSettings: ("table", "column"),
    }
    base = bases.get(model, ())
    needed = {name: shown[name] for name in (*base, "kind", "dsn", "path", "primary", "endpoints") if name in shown}
    context = models_context()
    with_key = model.model_validate({**needed, key: shown[key]}, context=context)
    without = model.model_validate(needed, context=context)
    assert with_key == without


def models_context() -> object:
    from replicator.config.units import ReadContext

    return ReadContext(EXAMPLES, {})


def test_every_line_with_a_key_in_the_reference_explains_it() -> None:
    for line in (EXAMPLES / "reference.toml").read_text().splitlines():
        if re.match(r"(#: |# )?[a-z_]+ = ", line):
            assert re.search(r"\s# \S", line[3:]), line


def test_an_amount_has_one_currency_and_a_table_one_amount() -> None:
    amount = '[[failover.amounts]]\ntable = "w"\ncolumn = "n"\n'
    config = parse(PRIMARY + EMBEDDED + amount + 'currency_column = "c"\nlimit = "10.50"\n', "x")
    assert wiring.amount_rules(config) == (AmountRule("w", "n", "", "c"),)
    assert wiring.loss_budget(config) == LossBudget(0, {"w": Decimal("10.50")})
    both = refused(PRIMARY + EMBEDDED + amount + 'currency = "EUR"\ncurrency_column = "c"\n')
    assert "both" in both.message
    assert "already" in refused(PRIMARY + EMBEDDED + amount + amount).message
    for limit in ("-1", '"NaN"', '"much"'):
        assert "limit" in str(refused(PRIMARY + EMBEDDED + amount + f"limit = {limit}\n"))


# -- a cluster ------------------------------------------------------------------------------------------------------

CLUSTER = '[cluster]\nregions = { paris = "https://paris:1", tokyo = "https://tokyo:1" }\n'
SHARED = '[lease]\nkind = "static"\npath = "lease.json"\nttl = "3s"\n'
BY_HAND = '[lease]\nkind = "static"\n'


def test_a_region_of_a_cluster_needs_no_more_than_its_ledger_and_a_lease() -> None:
    for region in (PRIMARY, REPLICA):
        config = parse(region + EMBEDDED + CLUSTER + SHARED, "x")
        assert wiring.rules(config).regions == ("paris", "tokyo")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (SHARED + "[failover]\nacknowledge = 2\n", 14, "there are 1"),
        (BY_HAND + '[failover]\nmode = "automatic"\n', 12, "two regions from leading"),
        (SHARED + '[failover]\nsuspect = "4s"\n', 14, "its lease of 3 s"),
        (SHARED + '[failover]\nacknowledge = 1\nmissing = "degrade"\ndegrade_after = "2s"\n', 16, "before it knows"),
        (SHARED + '[failover]\nswitchover = "2s"\n', 14, "still being verified"),
        (SHARED + '[failover]\nstep = "500ms"\n', 14, "do not answer"),
        (SHARED + '[http]\ntoken = "a"\n', 7, "[http] token is another"),
        (SHARED + FOLLOW, 14, "who holds the lease"),
        ("", 7, "need a lease"),
        (SHARED + "[failover]\nacknowlege = 1\n", 14, "not known"),
    ],
)
def test_what_does_not_fit_in_a_cluster_is_refused(text: str, line: int, message: str) -> None:
    error = refused(PRIMARY + EMBEDDED + CLUSTER + text)
    assert error.place == f"/etc/region.toml, line {line}"
    assert message in error.message
    assert error.cure


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ('regions = { paris = "https://a:1", tokyo = "https://a:1/" }\n', "one address"),
        ('regions = { lima = "https://a:1", tokyo = "https://b:1" }\n', "'paris' is not among"),
        ('regions = { paris = "https://a:1" }\n', "at least 2"),
        ('regions = { paris = "https://a:1", tokyo = "b:1" }\n', "is a URL"),
    ],
)
def test_regions_that_are_no_cluster_are_refused(cluster: str, message: str) -> None:
    assert message in refused(PRIMARY + EMBEDDED + "[cluster]\n" + cluster + SHARED).message


# -- values ---------------------------------------------------------------------------------------------------------


def test_durations_and_sizes_have_units() -> None:
    config = parse(
        PRIMARY + EMBEDDED + '[settle]\nwindow = "500ms"\nmax_bytes = "1.5GiB"\n[stop]\ndeadline = "2m"', "x"
    )
    assert config.settle.window_seconds == 0.5
    assert config.settle.max_bytes == 3 << 29
    assert config.stop.deadline_seconds == 120


@pytest.mark.parametrize("value", ["2", '"2"', '"0s"', '"-1s"', '"2 parsecs"', '"1e3s"', "true", "2.5", '"٣s"'])
def test_what_is_no_duration_is_refused_with_its_line(value: str) -> None:
    error = refused(PRIMARY + EMBEDDED + f"[settle]\nwindow = {value}\n")
    assert error.place == "/etc/region.toml, line 8"
    assert "duration" in error.message


@pytest.mark.parametrize("value", ["64", '"64"', '"0MB"', '"64mb"', '"1e9B"', '"99999999TB"', "false"])
def test_what_is_no_size_is_refused(value: str) -> None:
    assert "size" in refused(PRIMARY + EMBEDDED + f"[settle]\nmax_bytes = {value}\n").message


@pytest.mark.parametrize(
    "value", ["7400", "host", "host:", "host:65536", ":7400", "::1:7400", "http://host:1", "a b:1"]
)
def test_what_is_no_address_is_refused(value: str) -> None:
    error = refused(PRIMARY + EMBEDDED + f'[http]\nlisten = "{value}"\n')
    assert "[http] listen" in error.message


def test_addresses_of_both_families() -> None:
    config = parse(PRIMARY + EMBEDDED + '[http]\nlisten = "[::]:7400"\n', "x")
    assert (config.http.listen.host, config.http.listen.port) == ("::", 7400)
    assert config.url == "http://[::1]:7400"


def test_paths_are_relative_to_the_file() -> None:
    config = parse(PRIMARY + EMBEDDED, "/etc/replicator/region.toml", {})
    assert config.region.files.journal == Path("/etc/replicator/data/journal.sqlite3")
    assert config.state_path == Path("/etc/replicator/data/ledger.sqlite3")


def test_the_settle_buffer_is_configured_as_written() -> None:
    text = REPLICA + FOLLOW + SQLITE
    fixed = wiring.settle_config(parse(text + '[settle]\nwindow = "100ms"\nlate = "quarantine"\nmemory = "1MB"\n', "x"))
    assert (fixed.window_us, fixed.late, fixed.resident_bytes) == (100_000, "quarantine", 1_000_000)
    assert (fixed.order, fixed.request_every_us, fixed.expire_after_us) == ("sequence", 5_000_000, 300_000_000)
    auto = wiring.settle_config(parse(text + '[settle]\nwindow = "auto"\nwindow_max = "5s"\nremembered = 7\n', "x"))
    assert auto.window_us == AutoWindow(0.001, 50_000, 5_000_000)
    assert auto.remembered == 7


def test_what_becomes_of_a_refused_statement_is_configured_as_written() -> None:
    text = REPLICA + FOLLOW + SQLITE
    assert wiring.replay_policy(parse(text, "x")) == QuarantinePolicy(sets_aside=False, limit=10_000)
    asked = parse(text + '[replay]\non_error = "quarantine"\nquarantine_limit = 7\n', "x")
    assert wiring.replay_policy(asked) == QuarantinePolicy(sets_aside=True, limit=7)
    assert "'halt' or 'quarantine'" in str(refused(text + '[replay]\non_error = "skip"\n'))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('late = "correct"', "'halt' or 'quarantine'"),
        ('window = "automatic"', "duration"),
        ("window_miss = 1.0", "less than 1"),
        ('window_min = "2m"', "window_min is above window_max"),
        ("remembered = 0", "greater than 0"),
    ],
)
def test_what_the_settle_buffer_cannot_be_is_refused(line: str, told: str) -> None:
    error = refused(REPLICA + FOLLOW + SQLITE + f"[settle]\n{line}\n")
    assert f"[settle] {line.split()[0]}" in error.message
    assert told in error.message


def test_the_object_is_frozen() -> None:
    config = parse(PRIMARY + EMBEDDED, "x")
    with pytest.raises(ValueError, match="frozen"):
        config.region.name = "other"


# -- secrets --------------------------------------------------------------------------------------------------------


def test_secrets_come_from_the_environment_and_from_files_and_are_never_printed(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2 of the file\n")
    text = PRIMARY + POSTGRES + 'password = { file = "password" }\n[http]\ntoken = { env = "TOKEN" }\n'
    config = parse(text, tmp_path / "region.toml", {"TOKEN": "hunter2-of-the-environment"})
    assert isinstance(config.source, PostgresSourceSettings)
    assert "password='hunter2 of the file'" in config.source.conninfo()
    assert config.http.token is not None
    assert config.http.token.reveal() == "hunter2-of-the-environment"
    for shown in (repr(config), str(config), f"{config.http.token}", repr(config.http)):
        assert "hunter2" not in shown


def test_a_whole_dsn_may_be_a_secret() -> None:
    text = PRIMARY + '[source]\nkind = "postgres"\ndsn = { env = "DSN" }\n'
    config = parse(text, "x", {"DSN": "host=a password=hunter2"})
    assert isinstance(config.source, PostgresSourceSettings)
    assert config.source.conninfo() == "host=a password=hunter2"
    assert "hunter2" not in repr(config)


def test_a_missing_secret_is_named_with_its_line() -> None:
    error = refused(PRIMARY + EMBEDDED + '[http]\ntoken = { env = "REPLICATOR_TOKEN" }\n')
    assert error.place == "/etc/region.toml, line 8"
    assert "REPLICATOR_TOKEN is not set" in error.message


def test_a_missing_secret_file_is_named(tmp_path: Path) -> None:
    text = PRIMARY + EMBEDDED + '[http]\ntoken = { file = "nowhere" }\n'
    assert str(tmp_path / "nowhere") in refused(text, path=str(tmp_path / "region.toml")).message


@pytest.mark.parametrize(
    "text",
    [
        PRIMARY + '[source]\nkind = "postgres"\ndsn = "host=a hunter2"\n',
        PRIMARY + '[source]\nkind = "postgres"\ndsn = "host=a password=hunter2"\nslot = "UPPER"\n',
        PRIMARY + '[source]\nkind = "postgres"\ndsn = ["hunter2"]\n',
        PRIMARY + '[source]\nkind = "postgres"\ndsn = { env = "A", file = "hunter2" }\n',
        PRIMARY + EMBEDDED + '[http]\ntoken = "hunter2 with a space"\n',
        PRIMARY + EMBEDDED + '[http]\ntoken = { env = "SECRET" }\ntokn = "hunter2"\n',
        REPLICA + SQLITE + '[follow]\nprimary = "https://me:hunter2@paris"\n',
    ],
)
def test_a_refused_configuration_does_not_print_its_secrets(text: str) -> None:
    error = refused(text, {"SECRET": "hunter2"})
    assert "hunter2" not in str(error)
    assert error.__cause__ is None


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "cure"),
    [
        (PRIMARY + "nmae = 1\n" + EMBEDDED, 5, "did you mean 'name'?"),
        (PRIMARY + EMBEDDED + "[setle]\n", 7, "did you mean 'settle'?"),
        (PRIMARY + EMBEDDED + '[replay]\n\nwindow = "2s"\n', 9, "[settle] has a key of that name"),
        (PRIMARY + POSTGRES + 'slto = "a"\n', 8, "did you mean 'slot'?"),
        (PRIMARY + EMBEDDED + '[[source.tables]]\nname = "a"\nkey = "b"\n[[source.tables]]\nnam = "c"\n', 11, "'name'"),
        (PRIMARY + EMBEDDED + "[source.limits]\nstatments = 3\n", 8, "did you mean 'statements'?"),
        (PRIMARY + EMBEDDED + 'source.x = "a"\n', 7, "known here"),
    ],
)
def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one(text: str, line: int, cure: str) -> None:
    error = refused(text)
    # A declaration that misses its name is named as well; the unknown key is one of the places.
    assert f"line {line}" in str(error)
    assert cure in str(error)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "/etc/region.toml", "[region]"),
        ("[region\n", "line 1", "Expected"),
        (PRIMARY, "line 3", "a primary has a [source]"),
        (REPLICA, "line 3", "needs a [follow]"),
        (REPLICA + FOLLOW, "line 3", "needs a [replica]"),
        (REPLICA + FOLLOW + SQLITE + EMBEDDED, "line 10", "a replica has no [source]"),
        (PRIMARY + EMBEDDED + FOLLOW, "line 7", "follows nobody"),
        (PRIMARY + EMBEDDED + SQLITE, "line 7", "is its [source]"),
        (PRIMARY.replace("primary", "leader"), "line 3", "'primary' or 'replica'"),
        (PRIMARY + '[source]\nkind = "oracle"\n', "line 6", '"embedded" or "postgres"'),
        (PRIMARY + '[source]\nkind = "postgres"\n', "line 5", "[source] dsn: this is needed"),
        (PRIMARY + EMBEDDED + '[http]\ncertificate = "x"\n', "line 8", "key is not"),
        (PRIMARY + EMBEDDED + "[http]\npublic_status = false\n", "line 8", "without a token"),
        (REPLICA + SQLITE + '[follow]\nprimary = "paris:7400"\n', "line 9", "is a URL"),
        (REPLICA + SQLITE + '[follow]\nprimary = "http://paris:99999"\n', "line 9", "primary"),
        (REPLICA + SQLITE + FOLLOW + 'reconnect_min = "1h"\n', "line 10", "above reconnect_max"),
        (REPLICA + FOLLOW + '[replica]\nkind = "sqlite"\npath = "data/journal.sqlite3"\n', "line 9", "sidecar's own"),
        (PRIMARY + EMBEDDED + '[[source.tables]]\nname = "a"\nkey = "version"\n', "line 9", "'version' is a column"),
        (PRIMARY + EMBEDDED + '[[source.tables]]\nname = "a"\nkey = ["b", "b"]\n', "line 9", "twice in the key"),
        (PRIMARY + EMBEDDED + '[[source.tables]]\nname = "a"\nkey = []\n', "line 9", "at least 1"),
        (
            PRIMARY + POSTGRES + 'tables = ["public.a"]\n[source.user_columns]\n"public.b" = "u"\n',
            "line 10",
            "not among tables",
        ),
        (PRIMARY + EMBEDDED + "[region]\n", "line 7", "Cannot declare"),
        (PRIMARY.replace('"paris"', '"par is"') + EMBEDDED, "line 2", "[region] name"),
        (PRIMARY + "epoch = 0\n" + EMBEDDED, "line 5", "greater than 0"),
        (PRIMARY + EMBEDDED + "[settle]\nmax_entries = 1.5\n", "line 8", "[settle] max_entries"),
    ],
)
def test_what_does_not_fit_is_refused_with_place_message_and_cure(text: str, place: str, message: str) -> None:
    error = refused(text)
    assert place in error.place
    assert message in error.message
    assert error.cure


def test_a_table_declared_twice_is_refused() -> None:
    table = '[[source.tables]]\nname = "a"\nkey = "b"\n'
    error = refused(PRIMARY + EMBEDDED + table + table)
    assert error.place == "/etc/region.toml, line 11"


def test_all_problems_are_told_at_once() -> None:
    error = refused(PRIMARY + EMBEDDED + "[settle]\nwindw = 1\nmax_byts = 2\n")
    assert "windw" in error.message
    assert "max_byts" in error.message


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "latin1.toml").write_bytes(b'[region]\nname = "\xe9"\n')
    (tmp_path / "large.toml").write_bytes(b"#" * 1_000_001)
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    reasons = {}
    for name in ("missing.toml", ".", "latin1.toml", "large.toml", "deep.toml"):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name)
        reasons[name] = caught.value.reason
        assert str(tmp_path) in caught.value.place
    assert reasons == {
        "missing.toml": "config_unreadable",
        ".": "config_unreadable",
        "latin1.toml": "config_not_utf8",
        "large.toml": "config_too_large",
        "deep.toml": "config_syntax",
    }


def test_the_line_of_a_key_is_found_whatever_the_spelling() -> None:
    text = 'a.b = 1\n["c"."d"]\n"e f" = 2 # [x]\n[[g]]\nh = 1\n[[g]]\nh = 2\n[g.i]\nj = """\nk = 1\n"""\n'
    assert line_of(text, ("a", "b")) == 1
    assert line_of(text, ("c", "d", "e f")) == 3
    assert line_of(text, ("g", 1, "h")) == 7
    assert line_of(text, ("g", 1, "i", "j")) == 9
    assert line_of(text, ("g", 0, "missing")) == 4
    assert line_of(text, ("nothing",)) is None


def test_defaults_fill_every_optional_section() -> None:
    config = parse(PRIMARY + EMBEDDED, "x")
    assert isinstance(config, Config)
    assert isinstance(config.source, EmbeddedSourceSettings)
    assert config.stop.deadline_seconds == 10
    assert config.replay.history
