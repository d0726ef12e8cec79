"""What is measured: one module for each contender, run as a process by an interpreter that has what it needs.

Nothing here may import anything but the standard library, these modules, and the contender's own packages.
"""
