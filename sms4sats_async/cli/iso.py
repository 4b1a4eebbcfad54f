"""Countries by their ISO 3166 codes: the service's own lists have none.

A code leads to a name as the service spells it, and only the service's live list leads from there to an id: a code can name no country
that the service does not offer, and none by an id that it has given to another.
"""

_NAMES = """
AE Uae; AF Afghanistan; AG Antiguabarbuda; AI Anguilla; AL Albania; AM Armenia; AO Angola; AR Argentina; AT Austria; AU Australia;
AW Aruba; BA Bosnia; BB Barbados; BD Bangladesh; BE Belgium; BF Furkinafaso; BG Bulgaria; BH Bahrain; BI Burundi; BJ Benin; BM
Bermuda; BN Brunei; BO Bolivia; BR Brazil; BS Bahamas; BT Bhutan; BW Botswana; BY Belarus; BZ Belize; CA Canada; CD DCongo; CF
Caf; CG Congo; CH Switzerland; CI Ivory; CL Chile; CM Cameroon; CN China; CO Colombia; CR Costarica; CV Capeverde; CY Cyprus; CZ
Czech; DE Germany; DJ Djibouti; DM Dominica; DO Dominican; DZ Algeria; EC Ecuador; EE Estonia; EG Egypt; ER Eritrea; ES Spain; ET
Ethiopia; FI Finland; FJ Fiji; FR France; GA Gabon; GB England; GD Grenada; GE Georgia; GF Frenchguiana; GH Ghana; GM Gambia; GN
Guinea; GP Guadeloupe; GQ Equatorialguinea; GR Greece; GT Guatemala; GW Guineabissau; GY Guyana; HK HongKong; HN Honduras; HR
Croatia; HT Haiti; HU Hungary; ID Indonesia; IE Ireland; IL Israel; IN India; IQ Iraq; IS Iceland; IT Italy; JM Jamaica; JO
Jordan; KE Kenya; KG Kyrgyzstan; KH Cambodia; KM Comoros; KN Saintkitts; KR Southkorea; KW Kuwait; KY Caymanislands; KZ
Kazakhstan; LA Laos; LB Lebanon; LC Saintlucia; LK Srilanka; LR Liberia; LS Lesotho; LT Lithuania; LU Luxembourg; LV Latvia; LY
Libyan; MA Morocco; MC Monaco; MD Moldova; ME Montenegro; MK Northmacedonia; ML Mali; MM Myanmar; MN Mongolia; MO Macao; MR
Mauritania; MS Montserrat; MU Mauritius; MV Maldives; MW Malawi; MX Mexico; MY Malaysia; MZ Mozambique; NA Namibia; NC
Newcaledonia; NE Niger; NG Nigeria; NI Nicaragua; NL Netherlands; NO Norway; NP Nepal; NZ Newzealand; OM Oman; PA Panama; PE Peru;
PG Papua; PH Philippines; PK Pakistan; PL Poland; PR Puertorico; PT Portugal; PY Paraguay; QA Qatar; RE Reunion; RO Romania; RS
Serbia; RU Russia; RW Rwanda; SA Saudiarabia; SC Seychelles; SE Sweden; SG Singapore; SI Slovenia; SK Slovakia; SL Sierraleone; SN
Senegal; SO Somalia; SR Suriname; SS Southsudan; ST Saotomeandprincipe; SV Salvador; SZ Swaziland; TD Chad; TG Togo; TH Thailand;
TJ Tajikistan; TL Timorleste; TM Turkmenistan; TN Tunisia; TR Turkey; TT Trinidad; TW Taiwan; TZ Tanzania; UA Ukraine; UG Uganda;
US USA; UY Uruguay; UZ Uzbekistan; VC Saintvincentgrenadines; VE Venezuela; VN Vietnam; YE Yemen; ZA Southafrica; ZM Zambia; ZW
Zimbabwe
"""

NAMES: dict[str, str] = {code: name for code, _, name in (row.strip().partition(" ") for row in _NAMES.split(";"))}
"""The service's spelling of each country, by its code of two capitals."""
NAMES["UK"] = NAMES["GB"]

OTHER_NAMES: dict[str, str] = {
    "unitedkingdom": "GB",
    "greatbritain": "GB",
    "unitedstates": "US",
    "unitedstatesofamerica": "US",
}
"""Codes of the countries that many people look for under another name than the service's, by that name."""
