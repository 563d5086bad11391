"""Which waiting requests are run next. Host side; a function of state and order alone.

Requests whose trunk is held go before those that need a new one, as in SGLang's
scheduling by the longest matched prefix (arXiv 2312.07104): a group that reads a
document is so kept together, and its trunk is computed once. Else the order is that of
submission.
"""

from collections.abc import Collection, Mapping, Sequence

from gru_mem_jax.sampling.jobs import Job

# A request that so many later ones, by the number of slots, have passed goes first.
PATIENCE = 2


def choose(
    waiting: Sequence[Job],
    free: int,
    entries: Mapping[bytes, int],
    idle: Collection[int],
    patience: int,
) -> list[Job]:
    """The jobs to run now, in order; counts in `Job.passed` who was passed over.

    A job that needs a new trunk while every entry is in use waits. A job that was
    passed over `patience` times goes first: until it runs, no other does.

    Args:
      waiting: in order of submission.
      free: most jobs to choose.
      entries: entry of each trunk that is held.
      idle: entries that no running request uses.
      patience: see above.
    """
    idle, coming, chosen = set(idle), set(), []
    left = list(enumerate(waiting))

    def ready(job: Job) -> bool:
        if not job.key or job.key in coming:
            return True
        entry = entries.get(job.key)
        # One that nobody uses is no longer idle then: new trunks may need it.
        return entry is not None and (entry not in idle or len(coming) < len(idle))

    def possible(job: Job) -> bool:
        return ready(job) or len(coming) < len(idle)

    while left and len(chosen) < free:
        pick = next((pair for pair in left if pair[1].passed >= patience), None)
        if pick is None:
            pick = next((pair for pair in left if ready(pair[1])), None)
        if pick is None:
            pick = left[0]
        if not possible(pick[1]):
            break
        number, job = pick
        if job.key and not ready(job):
            coming.add(job.key)
        elif job.key in entries:
            idle.discard(entries[job.key])
        left.remove(pick)
        chosen.append(job)
        for other, passed in left:
            passed.passed += other < number
    return chosen
