# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first look at a run
#
# `fixtures/service-chain` is a recording of real packets: a client, a switch, a filter that punts some packets to a
# service and drops others, and two machines behind it. Six points captured at the same time. Some packets were lost
# on purpose, at known places. Here we follow all of them.
#
# Each step takes what the step before has made. Tables are polars frames; what their columns mean is written in
# `docs/tables.md`.

# %%
from pathlib import Path

import polars as pl

import pktrace as pt

# From the notebook's folder or from the root of the checkout.
root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "fixtures").is_dir())
run = pt.load_run(root / "fixtures" / "service-chain")
print(run.description)
for path in run.paths:
    print(f"{path.name}: {' -> '.join(run.points[number].name for number in path.points)}")

# %% [markdown]
# ## Observations
#
# One row per packet per point, just as the captures have them: `frame` is the number that Wireshark shows for that
# file, and `ts_ns` the time stamp in nanoseconds, unchanged.

# %%
observations = pt.observe(run)
observations.frame.select("point", "frame", "ts_ns", "source", "destination", "protocol", "dport", "length").head()

# %%
observations.frame.group_by("point").len("packets").sort("packets", descending=True)

# %% [markdown]
# ## Trajectories
#
# All observations of one packet, put in the order of its path. `basis` says how they were matched. `exact` is certain:
# no other packet has the same bytes. `order` means that several packets were the same (here: identical datagrams), so
# that they were told apart by their order.

# %%
trajectories = pt.follow(observations)
trajectories.frame.group_by("path", "basis").len("packets").sort("path", "basis")

# %% [markdown]
# ## Verdicts: what became of them
#
# Every packet has one fate, so the fates of a path add up to its packets.

# %%
verdicts = pt.judge(trajectories)
verdicts.fates

# %% [markdown]
# The verdicts themselves are one row per packet per stage. Where were packets lost?

# %%
(
    verdicts.frame.group_by("path", "stage", "stage_name")
    .agg(
        entered=pl.len(),
        lost=(pl.col("verdict") == "lost").sum(),
        cannot_tell=(pl.col("verdict") == "undetermined").sum(),
    )
    .filter(pl.col("lost") > 0)
    .with_columns(ratio=pl.col("lost") / pl.col("entered"))
    .sort("path", "stage")
)

# %% [markdown]
# ## Rules: did the filter do what its rules say?
#
# `matched` packets hit the rule, `counter_packets` is what the data plane itself has counted: two witnesses that know
# nothing of each other. `unseen` packets vanished behind the filter's input. A rule with such packets stays
# `undetermined`, because the captures cannot show whether the filter threw them away or whether they were lost behind
# it.

# %%
verdicts.rules.select("path", "rule", "action", "matched", "hit", "unseen", "counter_packets", "status")

# %%
counted = verdicts.rules.drop_nulls("counter_packets")
assert counted.height > 0
assert (counted["matched"] == counted["counter_packets"]).all()

# %% [markdown]
# ## Latency
#
# Per stage and end to end, in nanoseconds. Percentiles count lost packets as infinite; one that falls on a lost packet
# is null.

# %%
latency = pt.stage_latency(trajectories)
latency.frame.filter(pl.col("path") == "ingress").select(
    "stage", "stage_name", "count", "lost", "median_ns", "p90_ns", "max_ns", "share"
)

# %% [markdown]
# The slowest packets on their way through the service:

# %%
(
    verdicts.frame.filter(pl.col("stage_name") == "service", pl.col("verdict") == "crossed")
    .join(trajectories.frame.select("trajectory", "protocol", "sport", "dport", "length"), on="trajectory")
    .select("trajectory", "path", "latency_ns", "protocol", "sport", "dport", "length")
    .sort("latency_ns", "trajectory", descending=[True, False])
    .head()
)

# %% [markdown]
# The distribution of each stage. A curve that ends below 1 lost the rest.

# %%
latency.plot.ecdf()

# %%
latency.plot.waterfall("egress")

# %% [markdown]
# ## One packet
#
# Any packet can be explained: every sighting, every field that changed, and why the verdict is what it is. Here the
# first one that was lost in the service.

# %%
lost = trajectories.frame.filter(pl.col("fate") == "lost", pl.col("path") == "ingress", pl.col("last_point") == "punt")
trajectories.explain(lost["trajectory"][0])
