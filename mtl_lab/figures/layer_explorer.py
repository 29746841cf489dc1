"""The layer explorer: which layers of a network Recon splits, by threshold and number, as HTML for a page."""

import base64
import io
import json
from collections.abc import Mapping, Sequence

from mtl_core.models import forks
from mtl_lab.figures import plots


def layer_explorer(log: Mapping, trunk, tasks: Sequence[str], threshold: float, count: int) -> str:
    """An element for `book/_static/layer_explorer.js` with its data; in it, for readers without scripts, one setting.

    log        what the search of a table found (`ranking` in its search.json): `layers`, `iterations`, and the counts
               `scores` and `mirror` by threshold.
    trunk      the network of that search; its weights are not read.
    threshold  S at the start and without scripts, one of those in `log`; `count`: the number of layers split there.
    """
    names, graph, layers = log["layers"], forks.trace(trunk), []
    for name in names:
        part, after = trunk.get_submodule(name), {node.target for node in forks.downstream(graph, {name})} - {name}
        layers.append({"name": name, "kind": plots.layer_kind(part), "size": sum(p.numel() for p in part.parameters())})
        layers[-1]["behind"] = [place for place, other in enumerate(names) if other in after]
    tails = [{"threshold": float(S)} | {tail: log[tail][S] for tail in ("scores", "mirror")} for S in log["scores"]]
    data = {"steps": log["iterations"], "tasks": list(tasks), "start": {"threshold": threshold, "count": count}}
    data |= {"layers": layers, "tails": sorted(tails, key=lambda tail: tail["threshold"])}
    scores, mirror = log["scores"][str(threshold)], log["mirror"][str(threshold)]
    chosen = sorted(range(len(names)), key=lambda place: -scores[place])[:count]
    split, kinds = [names[place] for place in chosen], {layer["name"]: layer["kind"] for layer in layers}
    ranked = plots.layer_scores(names, scores, mirror, kinds, count, log["iterations"])
    network, html = plots.split_network(names, split, kinds, tasks), '<div id="layer-explorer">'
    for figure, words in ((ranked, "The layers by falling score"), (network, "The network, layer by layer")):
        figure.savefig(file := io.BytesIO(), format="svg", metadata={"Date": None})
        plots.plt.close(figure)
        address = f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
        html += f'<figure><img src="{address}" alt="{words}: {count} are split at S = {threshold}"></figure>'
    before, copied = (sum(layers[i]["size"] for i in places) for places in (range(len(names)), chosen))
    after = before + (len(tasks) - 1) * copied
    said = f"S = {threshold:g}, {count} layers split, highest score first: {', '.join(split)}."
    said = f"{said} Shared parameters: {before:,}, with the copies {after:,}.".replace("= -", "= −")
    return html + f'<p>{said}</p><script type="application/json">{json.dumps(data, allow_nan=False)}</script></div>'
