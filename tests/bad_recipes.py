"""A good recipe, and the mistakes that can be made in it."""

from __future__ import annotations

GOOD = """\
name: tiny
data: {name: mnist, batch: 4}
model:
  stages: 2
  options: 4
  loss: mse
  refiner:
    backbone:
      name: conv
      layers:
        - {width: 4, stride: 2}
        - {width: 8, stride: 2, then: [condition, relu, {group: 4}]}
    blocks:
      - {name: conv, width: 8}
    head:
      name: conv
      layers:
        - {width: 4, upsample: 2, repeat: 2}
train:
  updates: 2
  optimizer: {lr: 1e-3}
  schedule: {name: linear}
  objective: {choice: 1}
"""
LAYER_0 = "bad.yaml:11: model.refiner.backbone.layers.0"
THEN = "bad.yaml:12: model.refiner.backbone.layers.1.then"


def part(first: str, last: str) -> str:
    """The lines of GOOD from the one that begins with `first` to the one before `last`."""
    return GOOD[GOOD.index(first) : GOOD.index(last)]


# What GOOD says, what stands there instead, and what the message has to hold.
RECIPES = {
    # An unknown key at every level.
    "key of a recipe": ("name: tiny", "name: tiny\nsede: 1", "bad.yaml:2: sede: unknown key", "'seed'"),
    "key of data": ("batch: 4", "bacth: 4", "bad.yaml:2: data.bacth: unknown key", "'batch'", "dataset 'mnist'"),
    "key of a model": ("stages: 2", "stages: 2\n  segmnt: 2", "bad.yaml:5: model.segmnt: unknown key", "'segment'"),
    "key of a refiner": ("blocks:", "bloks:", "bad.yaml:13: model.refiner.bloks: unknown key", "'blocks'"),
    "key of a backbone": ("layers:", "layer:", "bad.yaml:10: model.refiner.backbone.layer: unknown key", "'layers'"),
    "key of a unit": ("{width: 4, stride", "{width: 4, strides", f"{LAYER_0}.strides: unknown key", "'stride'"),
    "key of a group": ("{group: 4}", "{groups: 4}", f"{THEN}.2.groups: unknown key", "'group'"),
    "key of a block": ("conv, width", "conv, widht", "bad.yaml:14: model.refiner.blocks.0.widht: unknown", "'width'"),
    "key of a head": ("head:", "head:\n      kernal: 3", "bad.yaml:16: model.refiner.head.kernal: unknown", "'kernel'"),
    "key of train": ("  updates", "  update", "bad.yaml:20: train.update: unknown key", "'updates'", "accumulate"),
    "key of optimizer": ("{lr:", "{lrr:", "bad.yaml:21: train.optimizer.lrr: unknown key", "'lr'", "betas, eps"),
    "key of schedule": ("{name: linear", "{nam: linear", "bad.yaml:22: train.schedule.nam: unknown key", "'name'"),
    "key of objective": ("choice:", "choise:", "bad.yaml:23: train.objective.choise: unknown key", "'choice'"),
    "repeat misspelt": ("repeat: 2", "repeats: 2", "bad.yaml:18: model.refiner.head.layers.0.repeats", "'repeat'"),
    # A wrong type.
    "text for a number": ("stages: 2", "stages: two",
        "bad.yaml:4: model.stages: expected a whole number from 1 to 10,000, got 'two'."),
    "quoted number": ("stages: 2", "stages: '2'",
        "bad.yaml:4: model.stages: expected a whole number from 1 to 10,000, got '2'."),
    "fraction for a count": ("stages: 2", "stages: 2.5", "bad.yaml:4: model.stages: expected a whole number",
        "got 2.5."),
    "float for a count": ("updates: 2", "updates: 2e3", "bad.yaml:20: train.updates:", "got 2000.0. Write 2000."),
    "bool for a count": ("stages: 2", "stages: true", "bad.yaml:4: model.stages: expected a whole number", "got true."),
    "number for text": ("name: tiny", "name: 5", "bad.yaml:1: name: expected a valid folder name", "got 5."),
    "list for a component": ("{name: mnist, batch: 4}", "[mnist]", "bad.yaml:2: data: expected a dataset",
        "got [mnist]."),
    "list for a section": ("{lr: 1e-3}", "[adam]", "bad.yaml:21: train.optimizer: expected an optimizer: its name, or"),
    "component for a list": ("updates:", "track: tensorboard\n  updates:", "train.track: expected a list",
        "Write [tensorboard]."),
    "misspelt component for a list": ("updates:", "track: tensorbord\n  updates:", "Did you mean 'tensorboard'?"),
    "scalar for a list": ("[condition, relu, {group: 4}]", "relu", f"{THEN}: expected a list", "got 'relu'.\n"),
    "mapping for a list": ("- {name: conv, width", "  {name: conv, width",
        "bad.yaml:13: model.refiner.blocks: expected a list"),
    "scalar for a unit": ("{width: 4, stride: 2}", "4", f"{LAYER_0}: expected a mapping with width, kernel", "got 4."),
    "nothing": ("stages: 2", "stages:",
        "bad.yaml:4: model.stages: expected a whole number from 1 to 10,000, got nothing (null)."),
    "list for a name": ("loss: mse", "loss: {name: [mse]}", "bad.yaml:6: model.loss.name: expected the name of a loss"),
    # A name that no component has.
    "model": ("  stages", "  name: vqdrw\n  stages", "bad.yaml:4: model: no model is called 'vqdrw'", "'vqdraw'?"),
    "loss": ("mse", "msee", "bad.yaml:6: model.loss: no loss is called 'msee'. Did you mean 'mse'? Known: bernoulli"),
    "condition": ("loss: mse", "loss: mse\n  condition: flim", "bad.yaml:7: model.condition: no condition", "'film'?"),
    "refiner": ("refiner:", "refiner:\n    name: compsed", "bad.yaml:8: model.refiner: no refiner is", "'composed'?"),
    "backbone": ("name: conv", "name: cnov", "bad.yaml:9: model.refiner.backbone: no backbone is called", "'conv'?"),
    "block": ("{name: conv, width: 8}", "botleneck", "bad.yaml:14: model.refiner.blocks.0: no block", "'bottleneck'?"),
    "head": ("head:\n      name: conv", "head:\n      name: convv", "bad.yaml:16: model.refiner.head: no head",
        "'conv'?"),
    "selector": ("loss: mse", "loss: mse\n  selector: {name: epsilom}", "bad.yaml:7: model.selector: no sel",
        "'epsilon'?"),
    "search": ("loss: mse", "loss: mse\n  search: gredy", "bad.yaml:7: model.search: no search", "'greedy'?"),
    "dataset": ("mnist", "minst", "bad.yaml:2: data: no dataset is called 'minst'. Did you mean 'mnist'?"),
    "nothing near": ("mse", "perceptual", "bad.yaml:6: model.loss: no loss is called 'perceptual'. Known: bern"),
    "operation": ("relu", "rleu", f"{THEN}.1: expected 'condition' or 'relu' or 'layer'", "got 'rleu'.",
        "mean 'relu'?"),
    "optimizer": ("{lr", "{name: adma, lr", "bad.yaml:21: train.optimizer: no optimizer is called",
        "'adma'. Did you mean 'adam'?"),
    "schedule": ("{name: linear", "{name: linaer", "bad.yaml:22: train.schedule: no schedule is called 'linaer'",
        "'linear'?"),
    "an average of nothing": ("updates: 2", "updates: 2\n  ema: 1",
        "bad.yaml:21: train.ema: expected a number > 0 and <"),
    "clipped to nothing": ("updates: 2", "updates: 2\n  clip_norm: 0",
        "bad.yaml:21: train.clip_norm: expected a number > 0"),
    # A key that has to be there.
    "no model": (part("model", "train"), "", "bad.yaml:1: `model` is missing; expected a model, one of: distilled"),
    "no updates": ("  updates: 2\n", "", "bad.yaml:19: train: `updates` is missing; expected a whole number ≥ 1."),
    "no stages": ("  stages: 2\n", "",
        "bad.yaml:3: model: `stages` is missing; expected a whole number from 1 to 10,000."),
    "no loss": ("  loss: mse\n", "", "bad.yaml:3: model: `loss` is missing; expected a loss, one of: bernoulli"),
    "no refiner": (part("  refiner", "train"), "", "bad.yaml:3: model: `refiner` is missing; expected a refiner"),
    "no backbone": (part("    backbone", "    blocks"), "", "bad.yaml:7: model.refiner: `backbone` is missing", "conv"),
    "no block name": ("{name: conv, width", "{width", "bad.yaml:14: model.refiner.blocks.0: which block?",
        "bottleneck"),
    # A value out of range.
    "negative stages": ("stages: 2", "stages: -2",
        "bad.yaml:4: model.stages: expected a whole number from 1 to 10,000, got -2."),
    "zero batch": ("batch: 4", "batch: 0", "bad.yaml:2: data.batch: expected a whole number ≥ 1, got 0."),
    "epsilon of 2": ("mse", "mse\n  selector: {name: epsilon, epsilon: 2}", "bad.yaml:7: model.selector.epsilon",
        "≤ 1, got 2."),
    "infinite lr": ("1e-3", "1e999", "bad.yaml:21: train.optimizer.lr: expected a number > 0, got inf."),
    "beta of 1": ("{lr", "{betas: [0.9, 1], lr",
        "bad.yaml:21: train.optimizer.betas: expected a list of two numbers ≥ 0 and < 1"),
    "three betas": ("{lr", "{betas: [0, 0, 0], lr", "bad.yaml:21: train.optimizer.betas: expected", "got [0, 0, 0]."),
    "repeat 0": ("repeat: 2", "repeat: 0",
        "bad.yaml:18: model.refiner.head.layers.0.repeat: expected a whole number from 1 to 1,000"),
    "repeated mistake": ("upsample: 2", "upsample: 3", "bad.yaml:18: model.refiner.head.layers.0.upsample: expected 2"),
    "a path as name": ("name: tiny", "name: ../tiny", "bad.yaml:1: name: expected a valid folder name"),
    "a huge seed": ("name: tiny", f"name: tiny\nseed: {2**63}", "bad.yaml:2: seed: expected a whole number ≥ 0 and <"),
    "nothing to remove": ("loss: mse", "loss: mse\n  ~segmnt:",
        "bad.yaml:7: model.~segmnt: there is no key 'segmnt'"),
    # Parts that do not fit.
    "short head": ("repeat: 2", "repeat: 1", "bad.yaml:3: model: ",
        "size (14, 14), but the reconstruction has size (28, 28)"),
    "indivisible group": ("group: 4", "group: 3", "bad.yaml:8: model.refiner.backbone",
        "3 groups do not divide 8 channels"),
    "even kernel": ("{name: conv, width", "{name: conv, kernel: 2, width",
        "bad.yaml:14: model.refiner.blocks.0: kernel 2 is even"),
    "stride and upsample": ("stride: 2}", "stride: 2, upsample: 2}", "bad.yaml:8: model.refiner.backbone", "not both"),
    "active over stages": ("stages: 2", "stages: 2\n  active_stages: 3",
        "bad.yaml:3: model: `active_stages` is 3, of 2 stages"),
    "tokens for pixels": ("mse", "categorical", "bad.yaml:6: model.loss: categorical scores tokens", "Use mse"),
    # Wrong YAML.
    "tab": ("  stages", "\tstages", "bad.yaml:4: not valid YAML: ", "Indent with spaces, not tabs."),
    "open bracket": ("batch: 4}", "batch: 4", "bad.yaml:3: not valid YAML: expected ',' or '}'", "begins on line 2"),
    "indentation": ("name: tiny", "name: tiny\n seed: 1", "bad.yaml:2: not valid YAML: ", "Check the indentation"),
    "duplicate key": ("loss: mse", "loss: mse\n  stages: 3",
        "bad.yaml:7: the key 'stages' occurs twice in one mapping."),
    "merge key": ("loss: mse", "<<: {loss: mse}",
        "bad.yaml:6: `<<` is not supported. To build on another recipe: `extends:"),
    "python tag": ("stages: 2", "stages: !!python/object:os.system 2", "bad.yaml:4: '2' cannot be read as tag:",
        "without a tag"),
    "bytes": ("name: tiny", "name: !!binary aGk=", "bad.yaml:1: 'aGk=' cannot be read as tag:yaml.org,2002:binary."),
    "empty key": ("loss: mse", "loss: mse\n  : 3", "bad.yaml:7: expected a word as a key, got nothing."),
    # Other files.
    "extends itself": ("name:", "extends: bad.yaml\nname:",
        "bad.yaml:1: extends: forms a circle: bad.yaml → bad.yaml."),
    "extends a circle": ("name:", "extends: back.yaml\nname:",
        "back.yaml:1: extends: forms a circle: bad.yaml → back.yaml → bad"),
    "extends nothing": ("name:", "extends: god.yaml\nname:",
        "bad.yaml:1: extends: there is no file god.yaml. Did you mean 'good.yaml'?"),
    "extends a list": ("name:", "extends: [good.yaml]\nname:", "bad.yaml:1: extends: expected the path of one recipe"),
    "extends misspelt": ("name:", "extend: good.yaml\nname:",
        "bad.yaml:1: extend: unknown key. Did you mean 'extends'?"),
    "no such plugin": ("name:", "plugins: [god.py]\nname:", "bad.yaml:1: plugins: there is no plugin god.py.",
        "'good.py'?"),
    "plugin not in a list": ("name:", "plugins: god.py\nname:", "bad.yaml:1: plugins: expected a list of paths"),
}  # fmt: skip
