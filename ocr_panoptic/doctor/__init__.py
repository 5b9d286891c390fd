"""What a machine and its Python packages are, what is known to hinder, and how to cure it.

The doctor has to run where imports are broken: it must not import what it examines, and importing
:mod:`ocr_panoptic` itself imports Detectron2, to register models and data. Therefore

- the modules of this package import the standard library only, beside ``errors`` and ``files``,
  which do the same; tests/doctor/test_structure.py enforces it. ``tools/doctor.py`` imports them
  by their ordinary names, without running ``ocr_panoptic/__init__.py``;
- :mod:`.probes` and :mod:`.self_test`, which do import the rest, run in processes of their own
  (:mod:`.child`, started by :mod:`.attempts`): an import that raises, ends the process, crashes or
  never returns is something found, and does not end the doctor.

:mod:`.facts` gathers what there is; the checks (:mod:`.package_checks`, :mod:`.detectron2_checks`,
:mod:`.device_checks`, :mod:`.machine_checks`) judge it, and each names the cure as a command;
:mod:`.report` prints both.
"""
