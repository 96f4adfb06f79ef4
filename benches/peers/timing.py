"""Samples of a call, as every peer takes them."""

import statistics
import time


class Timer:
    """Times `call` for about `seconds`: a warm-up of at least two calls, then samples of about 20 us or one call.

    A call that lasts longer than `LONG_NS` and than `seconds` is a sample as it is, after one to warm up.
    """

    SAMPLE_NS = 20_000
    LONG_NS = 100_000_000
    LEAST_SAMPLES = 5

    def __init__(self, seconds):
        self.budget = int(seconds * 1e9)

    def measure(self, call):
        warm_until = time.perf_counter_ns() + self.budget // 10
        call()
        while True:
            start = time.perf_counter_ns()
            call()
            end = time.perf_counter_ns()
            if end >= warm_until:
                break
        if end - start > max(self.LONG_NS, self.budget):
            return {"median_ns": end - start, "best_ns": end - start, "runs": 1, "calls": 1}
        calls = max(1, self.SAMPLE_NS // max(end - start, 1))
        samples, until = [], end + self.budget
        while end < until or len(samples) < self.LEAST_SAMPLES:
            start = time.perf_counter_ns()
            for _ in range(calls):
                call()
            end = time.perf_counter_ns()
            samples.append((end - start) / calls)
        return {"median_ns": statistics.median(samples), "best_ns": min(samples), "runs": len(samples), "calls": calls}
