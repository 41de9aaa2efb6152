"""Build of the C++ kernels when unichoir is installed.

Without a C++ compiler, or with UNICHOIR_NATIVE=0, the package is installed without them.
"""

import os
import runpy
import sysconfig
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILD_SCRIPT = "src/unichoir/native/build.py"
LIBRARY = "src/unichoir/native/kernels.bin"


class KernelsHook(BuildHookInterface[Any]):
    """Builds the library before a wheel or an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library, and name the platform in the wheel's name if there is one."""
        script = runpy.run_path(os.path.join(self.root, BUILD_SCRIPT))
        if os.environ.get("UNICHOIR_NATIVE") == "0":
            self.app.display_info("UNICHOIR_NATIVE=0: without the C++ kernels for int8 models")
            return
        try:
            versions = script["build"]()
        except script["BuildError"] as error:
            self.app.display_warning(f"without the C++ kernels for int8 models, which are slower then: {error}")
            return
        self.app.display_info(f"C++ kernels for int8 models: {', '.join(versions)}")
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append(LIBRARY)
