"""Tables of final results for the console."""

from __future__ import annotations

from collections.abc import Mapping

from kdaug_jax.evaluation.predictors import main_network
from kdaug_jax.evaluation.run import Evaluator, Results
from kdaug_jax.runtime.console import table

# Metrics that the results table shows.
ALWAYS = ("accuracy", "nll")


def results_tables(
    evaluator: Evaluator, results: Results, teachers: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Returns the results table, and the table of further metrics if there are any.

    Args:
      evaluator: what was evaluated.
      results: metrics by member.
      teachers: metrics by frozen network.
    """
    further = _metrics_table(results)
    return [_results_table(evaluator, results, teachers), *([further] if further else [])]


def _results_table(
    evaluator: Evaluator, results: Results, teachers: Mapping[str, Mapping[str, float]]
) -> str:
    networks = evaluator.spec.networks
    architectures = {name: network.model.name for name, network in networks.items()}
    rows = [("network", "validation accuracy", "test accuracy", "test nll")]

    def row(label: str, name: str, values: Mapping[str, float], member: str = ""):
        middle = f"{name}/" if name else ""
        cells = []
        for split in ("validation", "test"):
            value = values.get(f"eval/{split}/{middle}accuracy")
            cells.append("-" if value is None else f"{100 * value:.2f} %")
        nll = values.get(f"eval/test/{middle}nll")
        return (f"{label} {member}".rstrip(), *cells, "-" if nll is None else f"{nll:.4f}")

    for name, values in teachers.items():
        rows.append(row(f"{name} ({architectures[name]})", name, values))
    for member, values in results.items():
        for predictor in evaluator.spec.predictors:
            network, branch = predictor.members[0]
            label = f"{network} ({architectures[network]})"
            if predictor.term:
                count = len(predictor.members)
                weights = [
                    values.get(f"eval/test/{predictor.name}/weight_{i}") for i in range(count)
                ]
                known = " ".join(f"{weight:.2f}" for weight in weights if weight is not None)
                label = f"{predictor.name} of {count}" + (f" ({known})" if known else "")
            elif "branch_" in predictor.name:
                label = f"  {network}, BatchNorm branch {branch}"
            rows.append(row(label, predictor.name, values, member))
        for selection in evaluator.selections:
            number = int(values[f"eval/validation/{selection.name}/number"])
            option = selection.options[number] or main_network(list(architectures))
            rows.append(row(f"chosen on validation: {option}", selection.name, values, member))
    return table(rows)


def _metrics_table(results: Results) -> str:
    """Returns a table of the metrics beside accuracy and NLL, "" where there are none."""
    rows = [("metric", "validation", "test")]
    for member, values in results.items():
        names = dict.fromkeys(name.split("/", 2)[2] for name in values)
        for name in names:
            last = name.rpartition("/")[2]
            if last in ALWAYS or last == "number" or last.startswith("weight_"):
                continue
            numbers = [values.get(f"eval/{split}/{name}") for split in ("validation", "test")]
            cells = ["-" if number is None else f"{number:.4f}" for number in numbers]
            rows.append((f"{name} {member}".rstrip(), *cells))
    return table(rows) if len(rows) > 1 else ""
