"""An analysis held against the truth of a generated run, packet by packet.

Whom a trajectory follows is told by the frames that it owns: the packet, or the group of packets with the same bytes,
that most of them hold. A trajectory is a wrong match if some of its frames do not hold that one. Packets that can be
told apart are compared one by one, the others by how many were lost at which stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tests.accuracy.changes import Changes, wrong_changes, wrong_kinds, wrong_ranges

CAUTIOUS = ("undetermined", "ambiguous")
GONE = ("lost", "partial")
FRAME = ["point", "capture", "frame"]


@dataclass(frozen=True)
class Score:
    """Counts of one run; shares are of decidable packets (right) or of all packets (cautious)."""

    packets: int
    decidable: int
    right: int
    wrong_matches: int
    recall: float
    precision: float
    surplus: int
    invented: int
    missed: int
    stages_exact: bool
    cautious: int
    losses: tuple[tuple[str, int | None, int, int], ...]  # path, stage (None: partial), truth, said
    wrong_kinds: int = 0
    wrong_changes: tuple[str, ...] = ()
    wrong_ranges: int = 0

    @property
    def right_share(self) -> float:
        """Right packets of the decidable ones."""
        return self.right / self.decidable if self.decidable else 1.0

    @property
    def cautious_share(self) -> float:
        """Cautious answers, where the captures show what became of the packet, of all packets."""
        return self.cautious / self.packets if self.packets else 0.0

    @property
    def faults(self) -> list[str]:
        """What does not reach what is demanded."""
        found = []
        if self.wrong_matches:
            found.append("wrong matches")
        if self.right_share < 0.999:
            found.append("right < 99.9 %")
        if self.surplus > 0.001 * self.packets:
            found.append("surplus packets")
        if not self.stages_exact:
            found.append("losses per stage")
        if self.cautious_share > 0.01:
            found.append("cautious > 1 %")
        found += [f"{self.wrong_kinds} packets with wrong transforms"] if self.wrong_kinds else []
        found += [f"transforms: {change}" for change in self.wrong_changes]
        found += [f"{self.wrong_ranges} wrong ranges"] if self.wrong_ranges else []
        return found


def read_truth(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The packets and observations of a generated run."""
    packets = pl.read_parquet(folder / "truth_packets.parquet")
    seen = pl.read_parquet(folder / "truth_observations.parquet")
    plain = dict.fromkeys(("path", "fate", "rule", "action"), pl.String)
    return packets.cast(plain), seen.cast(dict.fromkeys(("point", "capture", "kind"), pl.String))  # type: ignore[arg-type]


def score(
    packets: pl.DataFrame,
    seen: pl.DataFrame,
    observations: pl.DataFrame,
    trajectories: pl.DataFrame,
    ranges: pl.DataFrame | None = None,
    changes: Changes | None = None,
) -> Score:
    """Compare tables of an analysis (design 6) with the truth.

    Args:
        packets, seen: of `read_truth`; observations: with point, capture, frame, trajectory; trajectories: with
        trajectory, path, fate, lost_stage; ranges: with trajectory, point, frame, where packets were split or merged;
        changes: what is to be compared of changes; packets and trajectories have transforms then.
    """
    truth = packets.with_columns(who=pl.coalesce(-1 - pl.col("alike"), pl.col("packet")))
    frames = seen.select(FRAME).unique(maintain_order=True).with_row_index("id")
    held = seen.join(frames, on=FRAME).join(truth.select("packet", "who"), on="packet").with_columns(
        on_path=pl.col("position").is_not_null()
    )  # fmt: skip
    owned = _owned(observations, ranges).join(frames, on=FRAME, how="left")
    unknown = owned["id"].null_count()
    if unknown:
        raise ValueError(f"{unknown} frames are in no truth")
    owned = owned.select("trajectory", "id").unique()

    # Whom each trajectory follows.
    holds = owned.join(held.select("id", "who").unique(), on="id")
    votes = (
        holds.group_by("trajectory", "who")
        .len("frames")
        .sort("trajectory", "frames", "who", descending=[False, True, False])
    )
    best = votes.group_by("trajectory", maintain_order=True).first()
    best = best.join(owned.group_by("trajectory").len("all"), on="trajectory")
    said = trajectories.select("trajectory", "path", "fate", "lost_stage").cast({"path": pl.String, "fate": pl.String})
    said = said.join(best.with_columns(mixed=pl.col("frames") < pl.col("all")), on="trajectory", how="left")

    right, recall, precision = _one_by_one(truth, held, owned, said)
    losses, exact = _losses(truth, said)
    undecidable = len(truth) - int(truth["decidable"].sum())
    # Counts of all packets hold where all that can be told apart are right, and no others are told of.
    all_right = (
        len(right) == int(truth["decidable"].sum()) and _surplus(truth, said) == 0 and _cautious(truth, said) == 0
    )
    return Score(
        packets=len(truth),
        decidable=int(truth["decidable"].sum()),
        right=len(right),
        wrong_matches=int(said["mixed"].sum()),
        recall=recall,
        precision=precision,
        surplus=_surplus(truth, said),
        invented=_invented(truth, said),
        missed=_missed(truth, said),
        stages_exact=exact,
        cautious=_cautious(truth, said),
        losses=losses,
        wrong_kinds=wrong_kinds(packets, trajectories, right) if changes else 0,
        wrong_changes=tuple(wrong_changes(changes, undecidable)) if changes and all_right else (),
        wrong_ranges=wrong_ranges(changes, right) if changes else 0,
    )


def _owned(observations: pl.DataFrame, ranges: pl.DataFrame | None) -> pl.DataFrame:
    """Which trajectory has which frames: the column of the observations, and the ranges."""
    plain = observations.select(*FRAME, "trajectory").cast({"point": pl.String, "capture": pl.String})
    found = [plain.filter(pl.col("trajectory").is_not_null()).select("trajectory", *FRAME)]
    if ranges is not None and len(ranges):
        more = ranges.select("trajectory", "point", "frame").cast({"point": pl.String})
        files = plain.select(FRAME).unique()
        found.append(more.join(files, on=["point", "frame"]).select("trajectory", *FRAME))
    return pl.concat(found).cast({"trajectory": pl.Int64, "frame": pl.Int64})


def _one_by_one(
    truth: pl.DataFrame, held: pl.DataFrame, owned: pl.DataFrame, said: pl.DataFrame
) -> tuple[pl.DataFrame, float, float]:
    """(packet and trajectory of decidable packets that are right, recall, precision of their frames).

    Right: one trajectory owns all frames of the packet and no other's, and says what became of it, and where.
    """
    alone = truth.filter("decidable")
    mine = held.filter("on_path").join(alone.select("packet"), on="packet").select("packet", "who", "id").unique()
    due = mine.group_by("packet").len("due")
    main = (
        said.filter(pl.col("who") >= 0)
        .sort("frames", "trajectory", descending=[True, False])
        .unique("who", keep="first", maintain_order=True)
        .rename({"who": "packet"})
    )
    got = (
        mine.join(main.select("packet", "trajectory"), on="packet")
        .join(owned, on=["trajectory", "id"], how="semi")
        .group_by("packet")
        .len("got")
    )
    both = (
        alone.select("packet", "path", "fate", "lost_stage", "cautious_allowed")
        .join(due, on="packet", how="left")
        .join(got, on="packet", how="left")
        .join(
            main.select("packet", "trajectory", "path", "fate", "lost_stage", "mixed"),
            on="packet",
            how="left",
            suffix="_said",
        )
        .with_columns(pl.col("due", "got").fill_null(0))
    )
    told = (pl.col("fate") == pl.col("fate_said")) & pl.col("lost_stage").eq_missing(pl.col("lost_stage_said"))
    told |= pl.col("cautious_allowed") & pl.col("fate_said").is_in(CAUTIOUS)
    right = both.filter(
        (pl.col("due") == pl.col("got")) & ~pl.col("mixed") & (pl.col("path") == pl.col("path_said")) & told
    )
    # Of all frames that were given to a decidable packet, how many hold it.
    given = said.filter(pl.col("who") >= 0)
    precision = given["frames"].sum() / given["all"].sum() if len(given) else 1.0
    recall = both["got"].sum() / both["due"].sum() if len(both) else 1.0
    return right.select("packet", "trajectory"), recall, precision


def _by_who(table: pl.DataFrame, fates: tuple[str, ...], name: str) -> pl.DataFrame:
    return table.filter(pl.col("fate").is_in(fates)).group_by("who").len(name)


def _surplus(truth: pl.DataFrame, said: pl.DataFrame) -> int:
    """Trajectories more than there are packets: one packet taken for two, or what is none for one."""
    told = said.filter(pl.col("who").is_not_null()).group_by("who").len("said")
    both = told.join(truth.group_by("who").len("true"), on="who", how="left").with_columns(pl.col("true").fill_null(0))
    return int(both.select((pl.col("said").cast(pl.Int64) - pl.col("true")).clip(0).sum()).item())


def _invented(truth: pl.DataFrame, said: pl.DataFrame) -> int:
    """Packets said to be lost, or dropped, more than there were; by group where they are alike."""
    true = _by_who(truth, (*GONE, "dropped"), "true")
    told = _by_who(said.filter(pl.col("who").is_not_null()), (*GONE, "dropped"), "said")
    both = told.join(true, on="who", how="left").with_columns(pl.col("true").fill_null(0))
    return int(both.select((pl.col("said").cast(pl.Int64) - pl.col("true")).clip(0).sum()).item())


def _missed(truth: pl.DataFrame, said: pl.DataFrame) -> int:
    """Packets that were lost and that nothing was said to have happened to, not even cautiously."""
    true = _by_who(truth.filter(~pl.col("cautious_allowed")), GONE, "true")
    told = _by_who(said.filter(pl.col("who").is_not_null()), (*GONE, *CAUTIOUS), "said")
    both = true.join(told, on="who", how="left").with_columns(pl.col("said").fill_null(0))
    return int(both.select((pl.col("true").cast(pl.Int64) - pl.col("said")).clip(0).sum()).item())


def _losses(truth: pl.DataFrame, said: pl.DataFrame) -> tuple[tuple[tuple[str, int | None, int, int], ...], bool]:
    """(path, stage, packets lost there, packets said so), and whether all are right.

    A packet of which it may be undetermined whether it was lost may be counted or not.
    """
    key = ["path", pl.col("lost_stage").cast(pl.Int64).alias("stage")]
    gone = truth.filter(pl.col("fate").is_in(GONE))
    true = gone.group_by(key).agg(
        most=pl.len().cast(pl.Int64), least=(~pl.col("cautious_allowed")).sum().cast(pl.Int64)
    )  # fmt: skip
    told = said.filter(pl.col("fate").is_in(GONE)).group_by(key).agg(said=pl.len().cast(pl.Int64))
    both = (
        true.join(told, on=["path", "stage"], how="full", coalesce=True, nulls_equal=True)
        .with_columns(pl.col("most", "least", "said").fill_null(0))
        .sort("path", "stage")
    )
    exact = both.select(((pl.col("least") <= pl.col("said")) & (pl.col("said") <= pl.col("most"))).all()).item()
    return tuple(both.select("path", "stage", "most", "said").iter_rows()), bool(exact)


def _cautious(truth: pl.DataFrame, said: pl.DataFrame) -> int:
    """Cautious answers about packets whose captures show what became of them."""
    allowed = truth.group_by("who").agg(pl.col("cautious_allowed").any())
    doubtful = said.filter(pl.col("fate").is_in(CAUTIOUS)).join(allowed, on="who", how="left")
    return len(doubtful.filter(~pl.col("cautious_allowed").fill_null(False)))
