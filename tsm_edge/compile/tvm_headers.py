"""Where TVM's public C headers are."""

from __future__ import annotations

from pathlib import Path


def tvm_ffi_includes() -> list[Path]:
    """Folders of TVM's public C header and of DLPack's, from the installed tvm-ffi package."""
    import tvm_ffi.libinfo

    return [Path(tvm_ffi.libinfo.find_include_path()), Path(tvm_ffi.libinfo.find_dlpack_include_path())]
