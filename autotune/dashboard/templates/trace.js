"use strict";
async function openTrace(canvas) {}
