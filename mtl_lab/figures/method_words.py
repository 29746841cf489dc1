"""What each method does, in half a sentence, for readers who meet its name in a figure."""

from collections.abc import Iterable

WORDS = {
    "LS": "equal weights, that is, adds the losses",
    "Vanilla": "equal weights, that is, adds the losses",
    "Joint": "equal weights, that is, adds the losses",
    "Equal weights": "adds the losses",
    "Searched static weights": "multiplies each loss by one fixed, tuned number",
    "Static weights, random search": "the same, with any weights, tried at random",
    "SI": "adds the logarithms of the losses",
    "Sum of logs": "adds the logarithms of the losses",
    "RLW": "gives the losses random weights at each step",
    "DWA": "gives more weight to a loss that falls slowly",
    "UW": "learns a weight for each loss, as its uncertainty",
    "FAMO": "weighs the losses so that all fall at one rate",
    "GradNorm": "learns weights that keep the gradients equally long",
    "Norm-equalised sum": "brings all gradients to one length and adds them",
    "Norm-equalised sum, clipped": "the same, cut to length 1 at most",
    "MGDA": "takes the shortest mix of the gradients, which raises no loss",
    "MGDA, solved exactly": "the same, without the approximation of its usual solver",
    "PCGrad": "takes out of each gradient what points against another",
    "GradDrop": "where signs disagree, keeps one sign at random",
    "CAGrad": "helps the worst-off task, close to the mean gradient",
    "IMTL-G": "steps equally far along every task's gradient",
    "Nash-MTL": "lets the tasks bargain for the step",
    "Aligned-MTL": "makes the gradients orthogonal and equally long",
    "SAM-GS": "equal lengths where lengths differ, momentum where they are alike",
    "RotoGrad": "equal lengths, and features turned so that gradients agree",
    "RotateOnly": "RotoGrad's turning alone",
    "ScaleOnly": "RotoGrad's equal lengths alone",
}


def who(names: Iterable[str]):
    """A folded list of these methods, in the order of `WORDS`; a name without words is left out."""
    from IPython.display import Markdown

    asked = set(names)
    listed = "\n".join(f"- **{name}**: {words}." for name, words in WORDS.items() if name in asked)
    return Markdown(f"<details><summary>What each method does, in half a sentence</summary>\n\n{listed}\n\n</details>")
