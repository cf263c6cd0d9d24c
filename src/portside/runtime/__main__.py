"""``portside-runtime`` as a script. Python compiles a script anew at each start, but not what it
imports: all but finding the packages is in :mod:`portside.runtime.oci.process_start`."""

import sys

if __name__ == "__main__":
    if __spec__ is None:  # a script: not by -m, which has found the package
        root = __file__.rpartition("/portside/")[0]
        here = sys.executable.rpartition("/bin/")[0]
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        # last: each directory before the one that has a module is read as well
        for path in (root, f"{here}/lib/{version}/site-packages"):
            if path not in sys.path:
                sys.path.append(path)
    from portside.runtime.oci.process_start import main

    main()
