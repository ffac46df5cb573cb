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
    other |= {"handler_failures", "template_failures"}
    histograms = {"handler_seconds", "pass_seconds", "fanout_seconds", "commit_seconds"}
    names = {name for name in items if "." not in name}
    assert names == set(Metrics.__slots__) - other - histograms


def test_histogram_counts_each_value_up_to_the_first_bound_that_holds_it() -> None:
    histogram = Histogram()
    for value in (0.0, 0.0001, 0.0002, 10.0, 10.1, 1e9):
        histogram.observe(value)
    assert histogram.counts == [2, 1, *[0] * 13, 1, 2]
    assert histogram.sum == 0.0 + 0.0001 + 0.0002 + 10.0 + 10.1 + 1e9


def some_metrics() -> Metrics:
    metrics = Metrics(publications=3, handler_seconds={"job": Histogram()})
    metrics.opened["sse"] += 2
    metrics.committed(1, 0.5)
    metrics.handled("job", 0.25)
    return metrics


def test_sum_of_two_processes_has_all_counters_of_both() -> None:
    total = some_metrics()
    total.add(some_metrics())
    other = Metrics(publications=1)
    other.handled("else", 0.25)
    total.add(other)
    assert (total.publications, total.opened, total.store_seconds) == (7, {"sse": 4}, 1.0)
    assert sum(total.commit_seconds.counts) == 2
    assert {n: (sum(h.counts), h.sum) for n, h in total.handler_seconds.items()} == {
        "job": (2, 0.5),
        "else": (1, 0.25),
    }
    total.add(other, -1)
    total.add(some_metrics(), -1)
    assert total.opened == some_metrics().opened
    assert total.commit_seconds == some_metrics().commit_seconds


def test_sum_does_not_change_with_its_parts() -> None:
    part, total = some_metrics(), Metrics()
    total.add(part)
    part.handled("job", 1.0)
    part.opened["sse"] += 1
    assert (sum(total.handler_seconds["job"].counts), total.opened["sse"]) == (1, 2)


def test_histograms_have_ascending_bounds() -> None:
    assert sorted(set(SECONDS)) == list(SECONDS)


def test_commits_are_in_a_histogram() -> None:
    metrics = Metrics()
    metrics.committed(3, 0.003)
    assert (sum(metrics.commit_seconds.counts), metrics.commit_seconds.sum) == (1, 0.003)
