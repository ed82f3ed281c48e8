"""The commands of `homodistil`, one file each: flags, then a call of the package, then what is printed."""
