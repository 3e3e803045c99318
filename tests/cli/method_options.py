"""What shows of each option of a method of sparse training that it is done, refused or said; see `option_tables`."""

from __future__ import annotations

from .option_checks import Option, recipe, refuses

BLOCK = ("--scheme", "block", "--sparsity", "0.5")
EM = ("--method", "em", "--mutate-every", "1", "--mutate-until", "3")
SET = ("--method", "set")
METHOD: dict[str, list[Option]] = {
    "method": [
        ((*BLOCK, *EM), recipe(method="em", mutate_every=1)),
        ((*BLOCK, *SET), recipe(method="set", mutate_every=1, mutate_until=None)),
        (EM, refuses("needs a scheme with its sparsity, or a profile")),
        (
            ("--model", "other.py:wide", "--scheme", "channel", "--sparsity", "0.01", *EM),
            refuses("Method 'em' has nothing to change, since no layer is sparse"),
        ),
        (
            (*BLOCK, *EM, "--mutate-every", "3"),
            refuses("never changes a mask in 4 epochs with mutate_every 3 and mutate_until 3"),
        ),
    ],
    "settings": [
        ((*BLOCK, *SET, "--settings", "zeta=0.2"), recipe(settings={"zeta": 0.2}, method="set", p=None)),
        ((*BLOCK, *EM, "--settings", "zeta=0.2"), refuses("settings of a recipe has 'zeta', which is none of")),
        ((*BLOCK, *SET, "--settings", "zeta=1"), refuses("zeta of method 'set' is above 0 and below 1, not 1.0")),
        ((*BLOCK, *SET, "--settings", "zeta"), refuses("'zeta' is no list of settings")),
        ((*BLOCK, *SET, "--settings", "zeta=x"), refuses("zeta of a recipe is a number, not 'x'")),
        ((*BLOCK, *SET, "--settings", "lr=1"), refuses("settings of a recipe has 'lr', which is a key beside it")),
    ],
    "p": [
        ((*BLOCK, *SET, "--p", "0.1"), refuses("p of a recipe is no setting of method 'set': leave it out")),
        ((*BLOCK, *EM, "--method", "em&s", "--p", "0.1"), lambda seen: seen.step["headroom"] == 0.1),
        ((*BLOCK, "--p", "0.1"), refuses("--p changes nothing here, since it needs method vanilla, em or em&s")),
    ],
    "mutate_every": [
        ((*BLOCK, *EM), recipe(mutate_every=1)),
        ((*BLOCK, "--mutate-every", "1"), refuses("--mutate-every changes nothing here")),
    ],
    "mutate_until": [
        ((*BLOCK, *EM), recipe(mutate_until=3)),
        ((*BLOCK, "--mutate-until", "1"), refuses("--mutate-until changes nothing here")),
    ],
    "p_milestones": [
        ((*BLOCK, *EM, "--p-milestones", "2"), recipe(p_milestones=[2])),
        ((*BLOCK, "--p-milestones", "2"), refuses("--p-milestones changes nothing here")),
        ((*BLOCK, *EM, "--method", "vanilla", "--p-milestones", "2"), refuses("needs method em or em&s")),
        ((*BLOCK, *EM, "--p-milestones", "3"), refuses("p_milestones below mutate_until")),
    ],
    "p_decay": [
        ((*BLOCK, *EM, "--p-milestones", "2", "--p-decay", "0.9"), recipe(p_decay=0.9)),
        ((*BLOCK, *EM, "--p-decay", "0.9"), refuses("--p-decay changes nothing here")),
    ],
    "importance_lambda": [
        ((*BLOCK, *EM, "--importance-lambda", "0.5"), recipe(importance_lambda=0.5)),
        ((*BLOCK, "--importance-lambda", "0.5"), refuses("--importance-lambda changes nothing here")),
    ],
}
