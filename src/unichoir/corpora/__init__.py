"""Public corpora: conversion of the published files to manifests with lhotse's recipes (extra `corpora`)."""
