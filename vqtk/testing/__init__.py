"""The contract that every component, built-in or in a plugin, must fulfil, as a list of checks to call.

The test of a plugin:

    @pytest.mark.parametrize("check", plugin_contract(Path("my_plugin.py")), ids=str)
    def test_my_plugin_keeps_to_the_contract(check):
        check()
"""

from vqtk.testing._case import ContractError
from vqtk.testing.contract import Check, contract, plugin_contract

__all__ = ["Check", "ContractError", "contract", "plugin_contract"]
