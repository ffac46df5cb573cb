from __future__ import annotations

from pushserver.hub.metrics import SECONDS, Histogram, Metrics


def test_resumptions_are_counted_by_result() -> None:
    metrics = Metrics()
    for reason in ("", "evicted", "", "epoch"):
        metrics.resumed(reason)
    assert metrics.recoveries == {"recovered": 2, "evicted": 1, "epoch": 1}


def test_commits_are_counted_with_their_publications_and_seconds() -> None:
    metrics = Metrics()
    metrics.committed(3, 0.5)
    metrics.committed(1, 0.25)
    assert (metrics.store_commits, metrics.store_rows) == (2, 4)
    assert (metrics.store_seconds, metrics.store_last_seconds) == (0.75, 0.25)


def test_servers_share_no_counters() -> None:
    one, other = Metrics(), Metrics()
    one.resumed("epoch")
    assert not other.recoveries


def test_items_have_a_name_for_each_counter_and_each_label() -> None:
    metrics = Metrics(publications=3, store_seconds=0.5)
    metrics.resumed("")
    metrics.resumed("epoch")
    metrics.refusals["store"] += 2
    items = metrics.items()
    assert items["publications"] == 3
    assert items["store_seconds"] == 0.5
    labelled = {name: count for name, count in items.items() if "." in name}
    assert labelled == {"recoveries.recovered": 1, "recoveries.epoch": 1, "refusals.store": 2}
    other = {"recoveries", "refusals", "ended", "made_room", "opened", "closed", "denied"}
    other |= {"handler_failures"}
    histograms = {"handler_seconds", "pass_seconds", "fanout_seconds", "commit_seconds"}
    names = {name for name in items if "." not in name}
    assert names == set(Metrics.__slots__) - other - histograms


def test_histogram_counts_each_value_up_to_the_first_bound_that_holds_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1, 1e9):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.sum == 0.0 + 1.0 + 1.5 + 2.0 + 2.1 + 1e9


def test_histograms_have_ascending_bounds() -> None:
    assert sorted(set(SECONDS)) == list(SECONDS)


def test_commits_are_in_a_histogram() -> None:
    metrics = Metrics()
    metrics.committed(3, 0.003)
    assert (sum(metrics.commit_seconds.counts), metrics.commit_seconds.sum) == (1, 0.003)
