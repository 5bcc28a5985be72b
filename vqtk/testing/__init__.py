"""The contract that every component keeps to, built-in or a plugin's, as checks to be called.

A plugin's own test:

    @pytest.mark.parametrize("check", plugin_contract(Path("my_plugin.py")), ids=str)
    def test_my_plugin_keeps_to_the_contract(check):
        check()
"""

from vqtk.testing._case import ContractError
from vqtk.testing.contract import Check, contract, plugin_contract

__all__ = ["Check", "ContractError", "contract", "plugin_contract"]
