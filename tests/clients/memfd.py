# Runs a copy of perl that no directory has: usage HOST PORT USER DATABASE SCRIPT.
import os, sys
fd = os.memfd_create("ghost")
with open("/usr/bin/perl", "rb") as perl:
    os.write(fd, perl.read())
os.execve(fd, ["perl", "-e", sys.argv[5], *sys.argv[1:4]], os.environ)
