"""`vqtk show`: a recipe as it is resolved, and what it costs."""

from __future__ import annotations

from vqtk.cli.options import DataDir, Json, Overrides, Plugins, RecipePath


def show(
    recipe: RecipePath,
    overrides: Overrides = None,
    plugin: Plugins = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show a resolved recipe with where each value came from, its parameters, bits and operations."""
    from vqtk.cli.options import print_json
    from vqtk.datasets import data_root
    from vqtk.evaluate.cost import flops, parameters_by_part, total_parameters
    from vqtk.recipe.build import build_dataset, build_model
    from vqtk.recipe.node import walk
    from vqtk.recipe.recipe import load_recipe
    from vqtk.recipe.show import as_yaml

    loaded = load_recipe(recipe, overrides or [])
    model = build_model(loaded, device="meta")
    dataset = build_dataset(loaded)
    plan = dataset.plan(data_root(data_dir, of=dataset))
    parts, operations = parameters_by_part(model), flops(loaded)
    if json:
        origins = {path: node.origin for path, node in walk(loaded.node) if not isinstance(node.value, (dict, list))}
        facts = {"stages": model.stages, "options": model.options, "bits": model.bits, "segments": model.segments}
        costs = {"parameters": {**parts, "total": total_parameters(model)}, "flops": operations, "data": plan}
        print_json({"recipe": loaded.plain(), "origins": origins, **facts, **costs})
        return
    print(as_yaml(loaded.node, [plugin.path for plugin in loaded.plugins]))
    segments = f", {model.segments} segments of {model.segment}" if model.segments > 1 else ""
    print(f"code        {model.stages} stages × {model.options} options = {model.bits:g} bits an item{segments}")
    print(
        f"parameters  {total_parameters(model):,}: " + ", ".join(f"{part} {count:,}" for part, count in parts.items())
    )
    encode, decode = (_engineering(operations[key]) for key in ("encode", "decode"))
    print(f"data        {plan}")
    print(f"operations  encode {encode}FLOPs, decode {decode}FLOPs an item")


def _engineering(value: int) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value} "
