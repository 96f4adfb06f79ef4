"""Greedy and beam search for one sentence, as plainly as they can be written.

`log_probabilities(prefixes)` gives [N, V] for N prefixes of equal length, each a list of tokens without `<bos>`.
A choice between two numbers that lie close together is refused: another order of summation could turn it.
"""

from dataclasses import dataclass

DECISIVE = 1e-6


@dataclass
class Hypothesis:
    tokens: list  # with <eos> where finished
    log_probability: float
    finished: bool = False
    score: float = 0.0

    @property
    def words(self):
        return self.tokens[:-1] if self.finished else self.tokens


def assert_apart(values, what):
    ordered = sorted(values, reverse=True)
    assert all(a - b > DECISIVE for a, b in zip(ordered, ordered[1:])), f"{what} too close: {ordered}"


def penalty(length, alpha):
    """Wu et al., 2016, equation 14; the length counts <eos>."""
    return ((5 + length) / 6) ** alpha


def greedy(log_probabilities, eos, limit):
    """The tokens before <eos>, and whether it came within `limit` tokens."""
    tokens = []
    while len(tokens) < limit:
        best = log_probabilities([tokens])[0].topk(2)
        assert_apart(best.values.tolist(), "the two most probable tokens")
        token = int(best.indices[0])
        if token == eos:
            return tokens, True
        tokens.append(token)
    return tokens, False


def beam_search(log_probabilities, eos, beams, limit, alpha):
    """`beams` hypotheses, best first: the finished by score, then unfinished ones by score where those are too few.

    ```text
    each step: candidates = the 2 beams continuations of live hypotheses with the greatest log-probability
               <eos> among the first `beams` of them -> finished; later ones are dropped
               the others in order -> live, until there are `beams`
    done when  `beams` are finished and no live one can score better than the worst of them,
               or after `limit` tokens; then live ones fill the list up, unfinished
    ```
    """
    live, finished = [Hypothesis([], 0.0)], []
    for length in range(1, limit + 1):
        rows = log_probabilities([hypothesis.tokens for hypothesis in live])
        continuations = [(hypothesis.log_probability + row[token].item(), beam, token)
                         for beam, (hypothesis, row) in enumerate(zip(live, rows)) for token in range(len(row))]
        continuations.sort(key=lambda c: (-c[0], c[1], c[2]))  # ties: lower beam, then lower token
        assert_apart([c[0] for c in continuations[: 2 * beams + 1]], "continuations")
        parents, live = live, []
        for rank, (log_probability, beam, token) in enumerate(continuations[: 2 * beams]):
            hypothesis = Hypothesis(parents[beam].tokens + [token], log_probability, token == eos)
            if not hypothesis.finished and len(live) < beams:
                live.append(hypothesis)
            if hypothesis.finished and rank < beams:
                hypothesis.score = log_probability / penalty(length, alpha)
                finished.append(hypothesis)
        assert_apart([hypothesis.score for hypothesis in finished], "finished scores")
        finished = sorted(finished, key=lambda h: -h.score)[:beams]  # stable: the one found earlier wins a tie
        if len(finished) == beams:
            hope, worst = live[0].log_probability / penalty(limit, alpha), finished[-1].score
            assert abs(hope - worst) > DECISIVE, "the end of the search hangs on rounding"
            if hope <= worst:
                return finished
    for hypothesis in live:
        hypothesis.score = hypothesis.log_probability / penalty(limit, alpha)
    fill = sorted(live, key=lambda h: -h.score)[: beams - len(finished)]
    return finished + fill
