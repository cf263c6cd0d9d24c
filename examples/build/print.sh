#!/bin/sh
# Prints what the first stage has made.
cat /text
