"""``portside-runtime`` as a script. Python compiles a script anew at each start, but not what it
imports: all but finding the modules is in :mod:`portside.runtime.oci.process_start`."""

import gc
import marshal
import sys

gc.disable()  # a short life, of which a collection would be a tenth


def combine(package: str) -> None:
    """Take the modules of a verb from its file, if that is there and as the sources are, without
    the import system. :mod:`portside.runtime.oci.combined_modules` describes the file, whose first
    entry is the code of that module."""
    verbs = {"create": "create", "run": "create", "exec": "exec"}
    verb = next((verbs[word] for word in sys.argv if word in verbs), "")
    if not verb or "--debug" in sys.argv:
        return
    name = "portside.runtime.oci.combined_modules"
    place = f"{package}/runtime/oci/__pycache__/combined-{verb}.{sys.implementation.cache_tag}"
    try:
        with open(place, "rb", buffering=0) as file:
            found = marshal.loads(file.readall())
        module = sys.modules[name] = type(sys)(name)
        exec(found[0], module.__dict__)
        if module.enter(package, found):
            return
    except (OSError, ValueError, EOFError, TypeError):
        pass
    sys.modules.pop(name, None)


if __name__ == "__main__":
    if __spec__ is None:  # a script: not by -m, which has found the package
        root = __file__.rpartition("/portside/")[0]
        here = sys.executable.rpartition("/bin/")[0]
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        # last: each directory before the one that has a module is read as well
        for path in (root, f"{here}/lib/{version}/site-packages"):
            if path not in sys.path:
                sys.path.append(path)
        combine(f"{root}/portside")
    from portside.runtime.oci.process_start import main

    main()
