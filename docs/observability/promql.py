"""As much of PromQL as the queries of dashboard.json need, with the rules of Prometheus for rates and quantiles."""

import math
import re

NAN = float("nan")
TOKEN = re.compile(r'\s*(?:(\d+(?:\.\d+)?)|([A-Za-z_:][\w:]*)|("[^"]*")|(\[[^\]]*\])|([(){},=+-]))')


class Metrics:
    """The values of series at some times."""

    def __init__(self, text):
        lines = [line.split(" ") for line in text.splitlines()]
        self.times = [float(at) for at in lines[0][1:]]
        self.series = {}
        for name, *values in lines[1:]:
            values = [float(value) for value in values]
            if len(values) == 1:
                # One value that never changes.
                values *= len(self.times)
            name, _, labels = name.partition("{")
            labels = tuple(re.findall(r'(\w+)="([^"]*)"', labels))
            self.series.setdefault(name, {})[labels] = values
        # Grafana's $__rate_interval is at least four times that of the scrapes.
        self.window = 4 * (self.times[-1] - self.times[0]) / (len(self.times) - 1)

    def query(self, text):
        """Returns the values of each set of labels."""
        tokens = []
        at = 0
        while at < len(text):
            match = TOKEN.match(text, at)
            if not match:
                raise ValueError(f"cannot read {text[at:]!r} in {text!r}")
            tokens.append(match[0].strip())
            at = match.end()
        query = Query(self, tokens)
        result = query.sum()
        if query.tokens:
            raise ValueError(f"{query.tokens} are left of {text!r}")
        return result


class Query:
    def __init__(self, metrics, tokens):
        self.metrics, self.tokens = metrics, tokens

    def take(self, expected=None):
        token = self.tokens.pop(0)
        if expected not in (None, token):
            raise ValueError(f"{token!r} instead of {expected!r}")
        return token

    def next(self):
        return self.tokens[0] if self.tokens else ""

    def sum(self):
        left = self.value()
        while self.next() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            right = self.value()
            left = {
                labels: [a + sign * b for a, b in zip(values, right[labels])]
                for labels, values in left.items() if labels in right
            }
        return left

    def value(self):
        name = self.take()
        if name == "sum":
            labels = self.labels() if self.next() == "by" else []
            self.take("(")
            inner = self.sum()
            self.take(")")
            return sum_by(labels, inner)
        if name in ("rate", "increase"):
            self.take("(")
            series = self.value()
            window = self.take()
            if window != "[$__rate_interval]":
                raise ValueError(f"the window {window}")
            self.take(")")
            per = self.metrics.window if name == "rate" else 1
            return {labels: [it / per for it in self.increase(values)] for labels, values in series.items()}
        if name == "histogram_quantile":
            self.take("(")
            quantile = float(self.take())
            self.take(",")
            inner = self.sum()
            self.take(")")
            return quantiles(quantile, inner)
        if self.next() == "{":
            raise ValueError("selectors are not known")
        if name not in self.metrics.series:
            raise ValueError(f"nothing has recorded {name}")
        return self.metrics.series[name]

    def labels(self):
        self.take("by")
        self.take("(")
        labels = []
        while self.next() != ")":
            labels.append(self.take())
            if self.next() == ",":
                self.take()
        self.take(")")
        return labels

    def increase(self, values):
        """The growth in the window before each time, extended to its borders as Prometheus does."""
        times, window = self.metrics.times, self.metrics.window
        growths = []
        for end in times:
            inside = [(at, value) for at, value in zip(times, values) if end - window < at <= end]
            if len(inside) < 2:
                growths.append(NAN)
                continue
            (first, value), (last, _) = inside[0], inside[-1]
            growth = sum(max(b - a, 0) if b >= a else b for (_, a), (_, b) in zip(inside, inside[1:]))
            sampled = last - first
            average = sampled / (len(inside) - 1)
            before, after = first - (end - window), end - last
            before = before if before < average * 1.1 else average / 2
            after = after if after < average * 1.1 else average / 2
            if growth > 0:
                before = min(before, sampled * value / growth)
            growths.append(growth * (sampled + before + after) / sampled)
        return growths


def sum_by(names, series):
    sums = {}
    for labels, values in series.items():
        key = tuple((name, value) for name, value in labels if name in names)
        known = sums.get(key)
        sums[key] = [a + b for a, b in zip(known, values)] if known else values
    return sums


def quantiles(quantile, series):
    buckets = sorted((float(dict(labels)["le"]), values) for labels, values in series.items())
    count = len(buckets[0][1])
    return {(): [one_quantile(quantile, [(bound, values[at]) for bound, values in buckets]) for at in range(count)]}


def one_quantile(quantile, buckets):
    total = buckets[-1][1]
    if not total > 0:
        return NAN
    rank = quantile * total
    index = next(index for index, (_, value) in enumerate(buckets) if value >= rank)
    if math.isinf(buckets[index][0]):
        return buckets[index - 1][0]
    below = buckets[index - 1] if index else (0.0, 0.0)
    share = (rank - below[1]) / (buckets[index][1] - below[1])
    return below[0] + (buckets[index][0] - below[0]) * share
